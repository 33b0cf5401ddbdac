package datadir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStampSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.kvd")
	d, err := Open(path)
	require.NoError(t, err)
	require.Nil(t, d.Stamp())
	require.NoError(t, d.WriteStamp(Stamp{ClusterID: 0xcdf818194e3a8c32, MemberID: 0x8e9e05c52164694d, Name: "a"}))
	require.Error(t, d.WriteStamp(Stamp{ClusterID: 1, MemberID: 2}), "a stamp is written once")
	require.NoError(t, d.Close())

	d, err = Open(path)
	require.NoError(t, err)
	require.Equal(t, &Stamp{Format: Format, ClusterID: 0xcdf818194e3a8c32, MemberID: 0x8e9e05c52164694d, Name: "a"}, d.Stamp())
	require.NoError(t, d.Close())
}

func TestDirectoryInUseIsRefused(t *testing.T) {
	path := t.TempDir()
	d, err := Open(path)
	require.NoError(t, err)
	_, err = Open(path)
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, d.Close())
	d, err = Open(path)
	require.NoError(t, err, "the lock goes with its holder")
	require.NoError(t, d.Close())
}

func TestForeignDirectoriesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, file, content, want string
	}{
		{"etcd", "member/snap/db", "", "holds a member of etcd"},
		{"something else", "notes.txt", "hello", `is not one of kvd's: it holds "notes.txt"`},
		{"newer", "kvd.json", `{"format":2,"cluster_id":"01","member_id":"02"}`, "written by a newer kvd"},
		{"broken stamp", "kvd.json", `{"format":`, "cannot be read"},
		{"bad id", "kvd.json", `{"format":1,"cluster_id":"xyz","member_id":"02"}`, "no hexadecimal id"},
		{"empty stamp", "kvd.json", `{}`, "is not valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := t.TempDir()
			file := filepath.Join(path, c.file)
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
			require.NoError(t, os.WriteFile(file, []byte(c.content), 0o600))
			_, err := Open(path)
			require.ErrorContains(t, err, c.want)
			kept, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, c.content, string(kept))
		})
	}
}

func TestFirstStartThatDiedIsNoForeigner(t *testing.T) {
	path := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(path, stampName+".tmp"), []byte("{"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(path, certificatesName, "peer"), 0o700), "as --auto-tls leaves it")
	d, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, d.WriteStamp(Stamp{ClusterID: 1, MemberID: 2}))
	require.NoError(t, d.Close())
}

func TestIncarnationsDiffer(t *testing.T) {
	a, err := NewIncarnation()
	require.NoError(t, err)
	b, err := NewIncarnation()
	require.NoError(t, err)
	require.NotZero(t, a)
	require.NotEqual(t, a, b)
}
