// Command drover is the CLI, the server and the development cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"drover/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := cli.Main(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
