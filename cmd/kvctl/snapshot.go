package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/backup"
	"github.com/kvd-io/kvd/backup/etcdfile"
)

// newSnapshotCommand is etcdctl's, whose save shows how far it is, with etcdutl's
// status and restore.
func newSnapshotCommand(global *command.GlobalFlags) *cobra.Command {
	snapshot := command.NewSnapshotCommand()
	for _, cmd := range snapshot.Commands() {
		if cmd.Name() == "save" {
			save(cmd, global)
		}
	}
	snapshot.AddCommand(newSnapshotStatusCommand(global), newSnapshotRestoreCommand())
	return snapshot
}

func newSnapshotStatusCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status <filename>",
		Short: "Shows hash, revision, keys and size of a snapshot file",
		Long: `Reads a snapshot file that kvd or etcd wrote, as a whole, and shows its hash, revision, total keys, total size and
storage version, as simple, table, json or fields (-w).`,
		Args: exactlyOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			r, err := etcdfile.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = r.Close() }() // it was only read
			s, err := r.Status(cmd.Context())
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return showStatus(cmd, global.OutputFormat, s)
		},
	}
}

func exactlyOneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return &codedError{cobrautl.ExitBadArgs, fmt.Errorf("snapshot %s requires exactly one argument", cmd.Name())}
	}
	return nil
}

// showStatus prints what etcdutl prints.
func showStatus(cmd *cobra.Command, format string, s etcdfile.Status) error {
	out := cmd.OutOrStdout()
	size := humanize.Bytes(uint64(s.TotalSize))
	var err error
	switch format {
	case "simple":
		_, err = fmt.Fprintf(out, "%x, %d, %d, %s, %s\n", s.Hash, s.Revision, s.TotalKey, size, s.Version)
	case "table":
		t := tablewriter.NewTable(out, tablewriter.WithRowAlignment(tw.AlignRight))
		t.Header("hash", "revision", "total keys", "total size", "version")
		if err = t.Append(fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.TotalKey), size, s.Version); err == nil {
			err = t.Render()
		}
	case "json":
		err = json.NewEncoder(out).Encode(s)
	case "fields":
		_, err = fmt.Fprintf(out, "\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %q\n",
			s.Hash, s.Revision, s.TotalKey, s.TotalSize, s.Version)
	default:
		return &codedError{cobrautl.ExitBadFeature, errors.New("unsupported output format")}
	}
	return err
}

func newSnapshotRestoreCommand() *cobra.Command {
	var cfg backup.RestoreConfig
	var peers string
	restore := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Makes a member's data directory out of a snapshot file",
		Long: `Makes the data directory of one member out of a snapshot file that kvd or etcd wrote. Run it for each member of the
new cluster, with the same file and the same --initial-cluster, --initial-cluster-token, --bump-revision and
--shard-bytes, and start the members with --data-dir and their URLs: the cluster begins with the keys, revisions, leases,
users and roles of the file, under ids of its own. Leases begin with the whole time that they were granted.

The file is checked as a whole before anything is written. A restore that was interrupted leaves a directory that kvd
refuses; run it again.`,
		Args: exactlyOneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.File, cfg.PeerURLs = args[0], strings.Split(peers, ",")
			if cfg.MarkCompacted != (cfg.BumpRevision > 0) {
				return &codedError{cobrautl.ExitBadArgs, errors.New("--mark-compacted required if --bump-revision > 0")}
			}
			if cfg.DataDir == "" {
				cfg.DataDir = cfg.Name + ".etcd"
			}
			cmd.SilenceUsage = true
			logger, err := zap.NewProduction()
			if err != nil {
				return err
			}
			cfg.Logger = logger
			done, err := backup.Restore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			logger.Info("restored snapshot", zap.String("path", cfg.File), zap.String("data-dir", cfg.DataDir),
				zap.String("cluster-id", fmt.Sprintf("%x", done.ClusterID)), zap.String("member-id", fmt.Sprintf("%x", done.MemberID)),
				zap.Int64("revision", done.Revision), zap.Int64("compact-revision", done.Compacted), zap.Int("shards", done.Shards), zap.Int("leases", done.Leases))
			return nil
		},
	}
	const name, url = "default", "http://localhost:2380"
	f := restore.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "Path to the output data directory; {name}.etcd if none given")
	f.StringVar(&cfg.WALDir, "wal-dir", "", "Path to the directory of the raft log, which must be new; give the member the same --wal-dir")
	f.StringVar(&cfg.InitialCluster, "initial-cluster", name+"="+url, "Initial cluster configuration for restore bootstrap")
	f.StringVar(&cfg.InitialClusterToken, "initial-cluster-token", "etcd-cluster", "Initial cluster token for the cluster during restore bootstrap")
	f.StringVar(&peers, "initial-advertise-peer-urls", url, "List of this member's peer URLs to advertise to the rest of the cluster")
	f.StringVar(&cfg.Name, "name", name, "Human-readable name for this member")
	f.BoolVar(&cfg.SkipHashCheck, "skip-hash-check", false, "Ignore snapshot integrity hash value (required if copied from data directory)")
	f.Uint64Var(&cfg.BumpRevision, "bump-revision", 0, "How much to increase the latest revision after restore")
	f.BoolVar(&cfg.MarkCompacted, "mark-compacted", false, "Mark the latest revision after restore as compacted (required if --bump-revision > 0, disallowed otherwise)")
	f.Int64Var(&cfg.ShardBytes, "shard-bytes", backup.DefaultShardBytes, "About how much data a shard of the new cluster begins with; the same for all members")
	for _, dir := range []string{"data-dir", "wal-dir"} {
		if err := restore.MarkFlagDirname(dir); err != nil {
			panic(err) // the flag was defined above
		}
	}
	return restore
}
