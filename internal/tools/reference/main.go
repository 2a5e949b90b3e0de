// Command reference writes docs/reference: a page, and a man page, of every
// command of drover. It is run by make generate.
package main

import (
	"fmt"
	"os"

	"drover/internal/cli"
)

func main() {
	if err := cli.WriteReference("docs/reference"); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}
