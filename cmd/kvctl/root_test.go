package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// etcdctlCommands are the commands that `etcdctl help` of v3.7 lists.
const etcdctlCommands = "alarm auth check compaction completion defrag del downgrade elect endpoint get help lease lock " +
	"make-mirror member move-leader options put role snapshot txn user version watch"

func TestEveryCommandOfEtcdctlIsMounted(t *testing.T) {
	root := newRoot()
	root.InitDefaultHelpCmd()
	mounted := make(map[string]bool)
	for _, cmd := range root.Commands() {
		mounted[cmd.Name()] = true
		require.NotEmpty(t, cmd.GroupID, cmd.Name())
	}
	for _, name := range strings.Fields(etcdctlCommands) {
		require.True(t, mounted[name], name)
		delete(mounted, name)
	}
	require.Equal(t, map[string]bool{"cluster": true, "shard": true}, mounted)
}

func TestHelpSpeaksOfKvctl(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		require.NotContains(t, cmd.Short+cmd.Long+cmd.Example, "etcdctl", cmd.CommandPath())
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	for _, cmd := range newRoot().Commands() {
		walk(cmd)
	}

	out, _, code := kvctl("shard", "--help")
	require.Zero(t, code)
	require.Contains(t, out, "list ")
	require.Contains(t, out, `Use "kvctl options" for a list of global command-line options`)
	require.NotContains(t, out, "--cacert", "global flags are hidden")
	out, _, code = kvctl("options")
	require.Zero(t, code)
	newRoot().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		require.Contains(t, out, "--"+f.Name)
	})
}
