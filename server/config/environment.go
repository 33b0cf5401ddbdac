package config

import (
	"maps"
	"slices"
	"strings"
)

// prefixes of variables, the strongest first.
var prefixes = []string{"KVD_", "ETCD_"}

// unflagged are variables with a prefix of ours that never were flags.
var unflagged = []string{"ETCD_UNSUPPORTED_ARCH"}

// environment holds the variables with our prefixes that are not empty, by their whole name.
type environment map[string]string

func readEnvironment(environ []string) environment {
	found := make(environment)
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || value == "" || slices.Contains(unflagged, name) {
			continue
		}
		for _, prefix := range prefixes {
			if strings.HasPrefix(name, prefix) {
				found[name] = value
			}
		}
	}
	return found
}

// variable is the name under which the environment sets a flag.
func variable(prefix, flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// get answers the value for a flag, "" if there is none.
func (e environment) get(flag string) string {
	for _, prefix := range prefixes {
		if value := e[variable(prefix, flag)]; value != "" {
			return value
		}
	}
	return ""
}

// apply sets what the command line left. A variable beside its flag is a problem, since one of them is meant and
// nobody can know which; variables that name no flag leave a warning.
func (e environment) apply(cfg *Config, table []option, wrong *problems) {
	left := maps.Clone(e)
	for i := range table {
		option := &table[i]
		if option.fileOnly {
			continue
		}
		var used string
		for _, prefix := range prefixes {
			name := variable(prefix, option.name)
			value, ok := left[name]
			if !ok {
				continue
			}
			delete(left, name)
			switch {
			case used != "":
				if value != e[used] {
					wrong.addf("environment variables %s and %s contradict each other", used, name)
				}
				continue
			case cfg.explicit[option.name]:
				wrong.addf("conflicting environment variable %q is shadowed by corresponding command-line flag (either unset environment variable or disable flag)", name)
				continue
			}
			used = name
			if err := option.value.Set(value); err != nil {
				wrong.addf("invalid value %q for %s: %w", value, name, err)
			}
		}
		if used != "" {
			cfg.explicit[option.name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		cfg.warn(name, "unrecognized environment variable")
	}
}
