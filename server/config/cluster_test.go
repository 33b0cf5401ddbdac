package config

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBootstrap(t *testing.T) {
	for _, row := range []struct {
		name, args string
		want       string // an error's text
	}{
		{name: "alone", args: ""},
		{name: "one of three",
			args: "--name=a --initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3 --initial-advertise-peer-urls=http://127.0.0.1:1"},
		{name: "several URLs in any order",
			args: "--name=a --initial-cluster=a=http://127.0.0.1:2,a=http://127.0.0.1:1 --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2"},
		{name: "not in it", args: "--name=x --initial-cluster=a=http://127.0.0.1:1",
			want: `couldn't find local name "x" in the initial cluster configuration`},
		{name: "not in the one it joins", args: "--name=x --initial-cluster=a=http://127.0.0.1:1 --initial-cluster-state=existing",
			want: `couldn't find local name "x" in the initial cluster configuration`},
		{name: "one URL for two members", args: "--name=a --initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1 --initial-advertise-peer-urls=http://127.0.0.1:1",
			want: "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url"},
		{name: "advertises less", args: "--name=a --initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.1:2 --initial-advertise-peer-urls=http://127.0.0.1:1",
			want: "--initial-cluster has a=http://127.0.0.1:2 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1"},
		{name: "advertises more", args: "--name=a --initial-cluster=a=http://127.0.0.1:1 --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
			want: "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.1:2"},
		{name: "advertises another", args: "--name=a --initial-cluster=a=http://127.0.0.1:1 --initial-advertise-peer-urls=http://127.0.0.1:9",
			want: "--initial-cluster has a=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:9"},
		{name: "default name with other URLs", args: "--initial-advertise-peer-urls=http://127.0.0.1:9",
			want: "--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://127.0.0.1:9"},
		{name: "joins with other URLs", args: "--name=a --initial-cluster=a=http://127.0.0.1:1 --initial-advertise-peer-urls=http://127.0.0.1:9 --initial-cluster-state=existing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := parse(t, strings.Fields(row.args)...)
			bootstrap, err := cfg.Bootstrap(context.Background())
			if row.want != "" {
				require.ErrorContains(t, err, row.want)
				return
			}
			require.NoError(t, err)
			require.Contains(t, bootstrap.Members, cfg.Name)
			require.Equal(t, "etcd-cluster", bootstrap.Token)
			require.Equal(t, cfg.InitialClusterState == StateNew, bootstrap.New)
		})
	}
}

func TestBootstrapOfSeveralURLs(t *testing.T) {
	cfg := parse(t, "--name=a", "--initial-cluster=b=http://127.0.0.1:3,a=http://127.0.0.1:2,,a=http://127.0.0.1:1",
		"--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2", "--initial-cluster-token=other")
	bootstrap, err := cfg.Bootstrap(context.Background())
	require.NoError(t, err)
	require.Equal(t, "a=http://127.0.0.1:1,a=http://127.0.0.1:2,b=http://127.0.0.1:3", bootstrap.Members.String())
	require.Equal(t, "other", bootstrap.Token)
}

func FuzzInitialCluster(f *testing.F) {
	for _, seed := range []string{"", "a=http://h:1", "a=http://h:1,b=unix://s,a=https://[::1]:2", "=x", "a==", ",,,", "a=http://h:1,a=http://h:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, initial string) {
		members, err := parseCluster(initial)
		if err != nil {
			return
		}
		for name, urls := range members {
			if name == "" || len(urls) == 0 {
				t.Fatalf("%q: member %q with %d URLs", initial, name, len(urls))
			}
			if strings.ContainsAny(name, ",=") {
				t.Fatalf("%q: impossible name %q", initial, name)
			}
			for _, url := range urls {
				if !slices.Contains([]string{"http", "https", "unix", "unixs"}, url.Scheme) {
					t.Fatalf("%q: scheme of %s", initial, url.String())
				}
			}
		}
		duplicateURL(members)
	})
}

func FuzzSplitKeys(f *testing.F) {
	f.Add(`a,b\x2cc,\x00`)
	f.Add(`\u00e4,"`)
	f.Fuzz(func(t *testing.T, written string) {
		var parsed, again [][]byte
		if keys(&parsed).Set(written) != nil {
			return
		}
		shown := keys(&parsed).String()
		if err := keys(&again).Set(shown); err != nil {
			t.Fatalf("%q is shown as %q, which is refused: %v", written, shown, err)
		}
		require.Equal(t, parsed, again)
	})
}
