package nomadd

import (
	"context"

	"github.com/hashicorp/go-hclog"
)

// machineDrivers are the drivers that work on this machine.
func machineDrivers(ctx context.Context, logger hclog.Logger) map[string]Driver {
	drivers := map[string]Driver{"raw_exec": &RawExec{}}
	docker, err := NewDocker(ctx)
	if err != nil {
		logger.Info("tasks can't have containers", "error", err)
		return drivers
	}
	drivers["docker"] = docker
	return drivers
}
