package version

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPrintBeginsWithTheEtcdVersion(t *testing.T) {
	var out strings.Builder
	require.NoError(t, Print(&out))
	lines := strings.Split(out.String(), "\n")
	require.Regexp(t, regexp.MustCompile(`^etcd Version: 3\.7\.\d+$`), lines[0])
	require.Equal(t, "kvd Version: "+Version, lines[1])
}

func TestClusterVersionHasNoPatch(t *testing.T) {
	require.Regexp(t, regexp.MustCompile(`^3\.7\.0$`), Cluster())
}
