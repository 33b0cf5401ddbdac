package durable

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	require.NoError(t, WriteFile(path, []byte("one, and longer")))
	require.NoError(t, os.WriteFile(path+".tmp", []byte("left by a crash"), 0o600))
	require.NoError(t, WriteFile(path, []byte("two")))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "two", string(got))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left behind")
}

func TestWriteFileTellsOfFailure(t *testing.T) {
	require.Error(t, WriteFile(filepath.Join(t.TempDir(), "missing", "f"), nil))
}
