// Package config turns command line, environment and configuration file into one checked Config.
//
// It owns every flag of kvd: name, default, meaning, help text, and whether kvd honours it. There is one table (see
// option.go and the options_*.go files beside it) from which the command line, the variables ETCD_* and KVD_*, the
// keys of --config-file, --help and docs/configuration.md are all made, so that they cannot drift apart. Names,
// defaults, value syntax and error texts are etcd's, so that an etcd deployment starts kvd unchanged.
//
// Promises:
//   - Defaults stand in one place, Default; nothing else invents a value.
//   - Validate reports every problem at once; a Config that it passed can be started.
//   - A flag that is accepted without effect, when it is set, leaves exactly one Warning that says why. A flag whose
//     silent loss would be dangerous (discovery services) is a problem instead.
//   - With --config-file, flags and environment count for nothing, as in etcd. Without it a flag beats the environment,
//     and setting both is an error.
//
// It must never open a port or touch the data directory while parsing (SetupTLS and the Listen methods do, and say
// so), and must not panic whatever the arguments, the environment or the file hold.
package config
