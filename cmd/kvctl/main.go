package main

import (
	"errors"
	"os"

	"go.etcd.io/etcd/pkg/v3/cobrautl"
)

func main() {
	os.Exit(exitCode(newRoot().Execute()))
}

// exitCode is what the process ends with. The error's text was printed by cobra.
func exitCode(err error) int {
	var coded *codedError
	switch {
	case err == nil:
		return cobrautl.ExitSuccess
	case errors.As(err, &coded):
		return coded.code
	default:
		return cobrautl.ExitError
	}
}

// codedError carries the exit code that etcdctl has for a kind of failure.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }
