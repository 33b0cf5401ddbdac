package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const pageHead = `# Configuration

Every setting of a member. This page is generated from the table in ` + "`server/config`" + ` by ` + "`make generate`" + `.

A setting is given as a flag (` + "`--name m1`, `--name=m1` or `-name m1`; the last one counts" + `), as an environment variable
(` + "`ETCD_NAME` or `KVD_NAME`" + `), or as a key of the YAML file that ` + "`--config-file`" + ` names. If a file is named, flags and
environment count for nothing, as in etcd. A flag together with its variable is an error, and so is a flag that does
not exist. Lists are separated by commas.

In the file, keys are the flags' names. As in etcd, TLS files stand in the tables ` + "`client-transport-security` and\n`peer-transport-security`" + ` (keys ` + "`cert-file`, `key-file`, `client-cert-file`, `client-key-file`, `client-cert-auth`,\n`crl-file`, `trusted-ca-file`, `auto-tls`, `allowed-cn`, `allowed-hostname`, `skip-client-san-verification`" + `) and socket
options in ` + "`socket-options`" + ` (` + "`reuse-port`, `reuse-address`" + `). A bare number counts nanoseconds where a duration is meant;
` + "`10m`" + ` is understood as well. Keys that kvd does not know are ignored with a warning.

All of etcd's flags are accepted, with etcd's defaults but for ` + "`--quota-backend-bytes`" + `, where 0 is no quota. Where the last column says *none*, the setting is accepted, has no
effect, and leaves one warning in the log if it is set.
`

// page writes docs/configuration.md.
func page() string {
	var out strings.Builder
	out.WriteString(pageHead)
	table := Default().options()
	for _, group := range groups {
		fmt.Fprintf(&out, "\n## %s\n\n| flag | default | meaning | effect |\n|---|---|---|---|\n", group)
		for i := range table {
			option := &table[i]
			if option.group != group {
				continue
			}
			name := "`--" + option.name + "`"
			if option.fileOnly {
				name = "(file only)"
			}
			written, effect := option.defaultText(), "yes"
			if written != "" {
				written = "`" + written + "`"
			}
			if option.without != "" {
				effect = "*none*: " + option.without
			}
			fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", name, written, strings.ReplaceAll(option.usage, "|", `\|`), effect)
		}
	}
	return out.String()
}

func TestConfigurationPage(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page()), 0o644))
	}
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, page(), string(written), "run make generate")
}
