package version

import (
	"fmt"
	"io"
	"runtime"

	etcd "go.etcd.io/etcd/api/v3/version"
)

var (
	// Version is kvd's own version, a git description such as v0.1.0-12-gabcdef0.
	Version = "v0.0.0-dev"
	// Commit is the git commit that was built.
	Commit = "unknown"
)

// Etcd is the etcd version whose API kvd serves, such as "3.7.3".
func Etcd() string { return etcd.Version }

// Cluster is the etcd cluster version that kvd reports, such as "3.7.0".
func Cluster() string { return etcd.Cluster(etcd.Version) + ".0" }

// Print writes what `kvd --version` shows. The first line is etcd's, since scripts and etcd's test-suites parse it.
func Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "etcd Version: %s\nkvd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
		Etcd(), Version, Commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
