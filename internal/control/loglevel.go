package control

// LogLevel asks for a subsystem's log level; without a subsystem, for that of
// all which have none of their own.
type LogLevel struct {
	Subsystem string `json:"subsystem,omitempty"`
	Level     string `json:"level"`
}
