package control

import "drover/internal/work"

// TokenRequest asks for a token.
type TokenRequest struct {
	Name     string        `json:"name,omitempty"` // whose it is, for people
	Role     work.Role     `json:"role"`
	Lifetime work.Duration `json:"lifetime,omitempty"` // for ever if zero
}

// NewToken is a token at its making: the only time that its text is told.
type NewToken struct {
	work.Token
	Text string `json:"token"`
}
