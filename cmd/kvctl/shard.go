package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

const shardGroup = "shard"

// splitTimeout stands in for --command-timeout: giving up early would leave open whether the shard was split.
const splitTimeout = time.Minute

const keysHelp = `
Keys are shown as they are; a key that is not printable, begins with a double quote or a parenthesis, or begins or ends
with a blank is shown as a quoted Go string ("a\x00b"). (start) and (end) are the ends of the key space, and (internal ...) is a bound
in kvd's own keys, which lie behind all user keys.`

func newShardCommand(global *command.GlobalFlags) *cobra.Command {
	shard := &cobra.Command{
		Use:     "shard <subcommand>",
		Short:   "Shard related commands. Use `kvctl shard --help` to see subcommands",
		Long:    "Shows and changes how kvd cuts its key space into shards." + keysHelp,
		GroupID: shardGroup,
		// Without this cobra takes an unknown subcommand for a call for help.
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &codedError{cobrautl.ExitBadArgs, fmt.Errorf("unknown shard command %q: there are list, show, split, merge, transfer, move, rebuild, cancel and rebalance", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	shard.AddCommand(newShardListCommand(global), newShardShowCommand(global), newShardSplitCommand(global), newShardMergeCommand(global),
		newShardTransferCommand(global), newShardMoveCommand(global), newShardRebuildCommand(global), newShardCancelCommand(global), newShardRebalanceCommand(global))
	return shard
}

func newShardListCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists all shards in key order",
		Long:  "Lists all shards in key order, as simple, table or json (-w).\n" + keysHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, global, func(ctx context.Context, admin kvdpb.ShardAdminClient, show display) error {
				response, err := admin.List(ctx, &kvdpb.ShardListRequest{})
				if err != nil {
					return err
				}
				return show(cmd.OutOrStdout(), response.Shards)
			})
		},
	}
}

func newShardShowCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show <shard-id>",
		Short: "Shows one shard",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			return withAdmin(cmd, global, func(ctx context.Context, admin kvdpb.ShardAdminClient, show display) error {
				response, err := admin.Show(ctx, &kvdpb.ShardShowRequest{Id: id})
				if err != nil {
					return err
				}
				return show(cmd.OutOrStdout(), []*kvdpb.ShardInfo{response.Shard})
			})
		},
	}
}

func newShardSplitCommand(global *command.GlobalFlags) *cobra.Command {
	var escaped bool
	split := &cobra.Command{
		Use:   "split <key>",
		Short: "Splits the shard that holds a key, which becomes the first key of the right half",
		Long: `Splits the shard that holds a key. The key need not exist; it becomes the first key of the right half. The answer
shows both halves.

The key is taken as it is, unless it begins with a double quote: then it is a Go string, as list and show print it. With
--escaped the key is the inside of a Go string, so that --escaped 'a\x00b' and '"a\x00b"' are the same.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readKey(args[0], escaped)
			if err != nil {
				return &codedError{cobrautl.ExitBadArgs, err}
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = splitTimeout
			}
			return withAdmin(cmd, global, func(ctx context.Context, admin kvdpb.ShardAdminClient, show display) error {
				response, err := admin.Split(ctx, &kvdpb.ShardSplitRequest{Key: key})
				if err != nil {
					return err
				}
				return show(cmd.OutOrStdout(), []*kvdpb.ShardInfo{response.Left, response.Right})
			})
		},
	}
	split.Flags().BoolVar(&escaped, "escaped", false, `read the key as the inside of a Go string: \x00, \n, \u00e4`)
	return split
}

func shardID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, &codedError{cobrautl.ExitBadArgs, fmt.Errorf("%q is not the id of a shard, which is a number", text)}
	}
	return id, nil
}

// withAdmin connects and does one command's work within --command-timeout.
func withAdmin(cmd *cobra.Command, global *command.GlobalFlags, work func(context.Context, kvdpb.ShardAdminClient, display) error) error {
	return withClient(cmd, global, func(ctx context.Context, _ *clientv3.Client, admin kvdpb.ShardAdminClient) error {
		// The format may come from the environment, which is known by now.
		show, err := displayFor(global.OutputFormat)
		if err != nil {
			return &codedError{cobrautl.ExitBadFeature, err}
		}
		return work(ctx, admin, show)
	})
}

// withClient connects and does one command's work within --command-timeout.
func withClient(cmd *cobra.Command, global *command.GlobalFlags, work func(context.Context, *clientv3.Client, kvdpb.ShardAdminClient) error) error {
	cmd.SilenceUsage = true // from here on it is not the command line that is wrong
	client, err := connect(cmd, global)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), global.CommandTimeOut)
	defer cancel()
	return explain(work(ctx, client, kvdpb.NewShardAdminClient(client.ActiveConnection())))
}

// explain turns a status of the server into an error for people, with etcdctl's exit codes.
func explain(err error) error {
	answered, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch answered.Code() {
	case codes.Unimplemented:
		return &codedError{cobrautl.ExitBadFeature, errors.New("the endpoint has no shards to show: it is not kvd")}
	case codes.Unavailable, codes.DeadlineExceeded:
		return &codedError{cobrautl.ExitBadConnection, errors.New(answered.Message())}
	case codes.InvalidArgument:
		return &codedError{cobrautl.ExitBadArgs, errors.New(answered.Message())}
	default:
		return errors.New(answered.Message())
	}
}
