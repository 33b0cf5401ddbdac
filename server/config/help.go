package config

import (
	"fmt"
	"io"
	"strings"
)

const usage = `Usage:

  kvd [flags]
    Start a member. Without flags: one member on localhost.

  kvd --version
    Show the version.

  kvd -h | --help
    Show the flags.

  kvd --config-file PATH
    Read the configuration from a YAML file with the flags' names as keys. If it is given, other flags and environment
    variables are ignored. A bare number counts nanoseconds where a duration is meant; "10m" is understood as well.

Each flag can also be given as an environment variable, ETCD_NAME or KVD_NAME for --name.
`

// WriteHelp writes what --help shows: all flags by group, with their defaults.
func WriteHelp(w io.Writer) error {
	var help strings.Builder
	help.WriteString(usage)
	table := Default().options()
	for _, group := range groups {
		fmt.Fprintf(&help, "\n%s:\n", group)
		for i := range table {
			option := &table[i]
			if option.group != group || option.fileOnly {
				continue
			}
			fmt.Fprintf(&help, "  --%s '%s'\n    %s\n", option.name, option.defaultText(), option.usage)
			if option.without != "" {
				fmt.Fprintf(&help, "    Without effect: %s.\n", option.without)
			}
		}
	}
	_, err := io.WriteString(w, help.String())
	return err
}

// WriteUsage writes the short help that stands below a usage error.
func WriteUsage(w io.Writer) error {
	_, err := io.WriteString(w, usage)
	return err
}

func (o *option) defaultText() string {
	if o.shown != "" {
		return o.shown
	}
	return o.value.String()
}
