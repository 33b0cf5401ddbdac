package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	etcdflags "go.etcd.io/etcd/pkg/v3/flags"
)

const configFileFlag = "config-file"

// legacyFlags are names that etcd still accepts and ignores.
var legacyFlags = []string{"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force",
	"max-result-buffer", "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout", "retry-interval",
	"snapshot", "v", "vv"}

// UsageError is a command line that could not be understood at all.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// InvalidError lists all that is wrong with a configuration.
type InvalidError struct{ Problems []error }

func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		texts[i] = problem.Error()
	}
	return strings.Join(texts, "; ")
}

func (e *InvalidError) Unwrap() []error { return e.Problems }

// problems collects what is wrong.
type problems []error

func (p *problems) add(err error) {
	if err != nil {
		*p = append(*p, err)
	}
}

func (p *problems) addf(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &InvalidError{Problems: p}
}

// Invocation is what a command line asks for: help, the version, or a member with Config.
type Invocation struct {
	Help, Version bool
	// Config is complete and valid, and nil if help or the version was asked for.
	Config *Config
}

// Parse reads a command line (without the program's name) and an environment ("NAME=value" each), and the
// configuration file if one is named. The error is a *UsageError or an *InvalidError.
func Parse(args, environ []string) (*Invocation, error) {
	cfg := Default()
	table := cfg.options()
	invocation := &Invocation{}

	set := flag.NewFlagSet("kvd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for i := range table {
		if !table[i].fileOnly {
			set.Var(table[i].value, table[i].name, table[i].usage)
		}
	}
	for _, name := range legacyFlags {
		set.Var(&etcdflags.IgnoredFlag{Name: name}, name, "")
	}
	set.StringVar(&cfg.File, configFileFlag, "", "")
	set.BoolVar(&invocation.Version, "version", false, "")

	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		invocation.Help = true
		return invocation, nil
	case err != nil:
		return nil, &UsageError{err}
	case set.NArg() > 0:
		return nil, &UsageError{fmt.Errorf("%q is not a valid flag", set.Arg(0))}
	case invocation.Version:
		return invocation, nil
	}

	environment := readEnvironment(environ)
	if cfg.File == "" {
		cfg.File = environment.get(configFileFlag)
	}
	if cfg.File != "" {
		cfg, err := FromFile(cfg.File)
		if err != nil {
			return nil, err
		}
		invocation.Config = cfg
		return invocation, nil
	}

	set.Visit(func(f *flag.Flag) {
		cfg.explicit[f.Name] = true
	})
	for _, name := range legacyFlags {
		if cfg.explicit[name] {
			cfg.warn(name, "flag is no longer supported")
		}
	}
	var wrong problems
	environment.apply(cfg, table, &wrong)
	if cfg.explicit["listen-client-urls"] && !cfg.explicit["advertise-client-urls"] {
		cfg.AdvertiseClientURLs = nil // the default would be a lie; Validate asks for it
	}
	return finish(invocation, cfg, wrong)
}

// finish completes and validates a configuration that was read, problems of reading included.
func finish(invocation *Invocation, cfg *Config, wrong problems) (*Invocation, error) {
	cfg.Complete()
	wrong = append(wrong, cfg.problems()...)
	if err := wrong.err(); err != nil {
		return nil, err
	}
	invocation.Config = cfg
	return invocation, nil
}
