package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestLogFileRotates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kvd.log")
	cfg := parse(t, "--log-outputs="+path+",stdout", "--log-format=console", "--enable-log-rotation", `--log-rotation-config-json={"maxsize":1,"maxbackups":9,"filename":"other"}`)
	require.Empty(t, cfg.Warnings)
	require.NoError(t, cfg.Validate())
	cfg.LogOutputs = []string{path} // the test's own output need not see it
	logger, level, err := cfg.NewLogger()
	require.NoError(t, err)
	level.SetLevel(zap.DebugLevel)
	for _, letter := range "abc" {
		logger.Debug(strings.Repeat(string(letter), 600<<10))
	}
	require.NoError(t, logger.Sync())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 3, "each line fills more than half of a file")
	newest, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(newest), "\tconfig/rotation_test.go:")
	require.Contains(t, string(newest), "ccc")

	cfg.LogOutputs = []string{filepath.Join(path, "below-a-file")}
	_, _, err = cfg.NewLogger()
	require.ErrorContains(t, err, "opening the log")
}
