package nomadd

// machineDrivers are the drivers that work on this machine.
func machineDrivers() map[string]Driver {
	return map[string]Driver{"raw_exec": &RawExec{}}

}
