package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
	"go.etcd.io/etcd/pkg/v3/cobrautl"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// moveTimeout stands in for --command-timeout: a move copies a shard.
const moveTimeout = 10 * time.Minute

const membersHelp = `
A member is called by its name or by its id, as member list shows them.`

func newShardTransferCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "transfer <shard-id> <member>",
		Short: "Makes a member the owner of a shard",
		Long: `Hands the ownership of a shard to a member that has a voting replica of it, and waits until it serves. Requests wait
meanwhile; none fails. The member stays the owner as long as it is there, and gets the shard back after a restart.
With "any" for the member the shard has no preferred owner any more.
` + membersHelp,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = splitTimeout
			}
			return withClient(cmd, global, func(ctx context.Context, client *clientv3.Client, admin kvdpb.ShardAdminClient) error {
				to := uint64(0)
				if args[1] != "any" {
					if to, err = memberID(ctx, client, args[1]); err != nil {
						return err
					}
				}
				if _, err := admin.Transfer(ctx, &kvdpb.ShardTransferRequest{Id: id, MemberId: to}); err != nil {
					return err
				}
				if to == 0 {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Shard %d has no preferred owner\n", id)
				} else {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Shard %d is owned by %s\n", id, args[1])
				}
				return err
			})
		},
	}
}

func newShardMoveCommand(global *command.GlobalFlags) *cobra.Command {
	var noWait bool
	move := &cobra.Command{
		Use:   "move <shard-id> <from-member> <to-member>",
		Short: "Moves a replica of a shard from one member to another",
		Long: `Adds a replica on one member, waits until it has caught up and votes, and then takes the one on the other member out.
If that owns the shard, it hands it over first. The move goes on when this command is interrupted, and when members
crash; shard list shows how far it is, and shard cancel takes it back until the new replica votes.
` + membersHelp,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = moveTimeout
			}
			return withClient(cmd, global, func(ctx context.Context, client *clientv3.Client, admin kvdpb.ShardAdminClient) error {
				from, err := memberID(ctx, client, args[1])
				if err != nil {
					return err
				}
				to, err := memberID(ctx, client, args[2])
				if err != nil {
					return err
				}
				response, err := admin.Move(ctx, &kvdpb.ShardMoveRequest{Id: id, FromMemberId: from, ToMemberId: to, NoWait: noWait})
				if err != nil {
					return err
				}
				done := "moved"
				if noWait {
					done = "begins to move"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Shard %d %s from %s to %s as replica %d\n", id, done, args[1], args[2], response.ReplicaId)
				return err
			})
		},
	}
	move.Flags().BoolVar(&noWait, "no-wait", false, "return once the move has begun")
	return move
}

func newShardMergeCommand(global *command.GlobalFlags) *cobra.Command {
	var noWait bool
	merge := &cobra.Command{
		Use:   "merge <shard-id> [<right-shard-id>]",
		Short: "Merges a shard with its right neighbour",
		Long: `Gives the keys of a shard's right neighbour to the shard, with their history and leases. The shard keeps its id; that of
the neighbour is never used again. Requests of the neighbour's keys wait meanwhile; none fails. Both must have replicas on the same members, and
the neighbour no more than 64 MiB with its history. With the id of the right neighbour nothing is done unless it is that.

The merge goes on when this command is interrupted, and when members crash; shard list shows how far it is, and shard
cancel takes it back until the neighbour has given its keys up.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := []uint64{0, 0}
			for i, text := range args {
				id, err := shardID(text)
				if err != nil {
					return err
				}
				ids[i] = id
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = splitTimeout
			}
			return withAdmin(cmd, global, func(ctx context.Context, admin kvdpb.ShardAdminClient, show display) error {
				response, err := admin.Merge(ctx, &kvdpb.ShardMergeRequest{Id: ids[0], RightId: ids[1], NoWait: noWait})
				if err != nil {
					return err
				}
				return show(cmd.OutOrStdout(), []*kvdpb.ShardInfo{response.Shard})
			})
		},
	}
	merge.Flags().BoolVar(&noWait, "no-wait", false, "return once the merge has begun")
	return merge
}

func newShardCancelCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel <shard-id>",
		Short: "Cancels the split, move, transfer, merge or rebuild of a shard that is under way",
		Long: `Takes back what is under way with a shard: a move, or a new replica, until that votes; a transfer until the new owner
serves; a merge until the right shard has given its keys up; a rebuild until the old replica leaves; splits as long as they
wait for what uses the keys, or for an earlier split. What has passed that point only goes forward.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = splitTimeout
			}
			return withClient(cmd, global, func(ctx context.Context, _ *clientv3.Client, admin kvdpb.ShardAdminClient) error {
				response, err := admin.Cancel(ctx, &kvdpb.ShardCancelRequest{Id: id})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Cancelled: %s\n", response.Cancelled)
				return err
			})
		},
	}
}

func newShardRebalanceCommand(global *command.GlobalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rebalance",
		Short: "Has the cluster look at its shards now, and shows what it decides",
		Long: `What the cluster does by itself every few seconds, now: repair, even out replicas, split large shards, hand owners over, as
far as cluster settings has it switched on and its rates allow. Shows what was begun, and returns before that is done.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = splitTimeout
			}
			return withClient(cmd, global, func(ctx context.Context, _ *clientv3.Client, admin kvdpb.ShardAdminClient) error {
				response, err := admin.Rebalance(ctx, &kvdpb.RebalanceRequest{})
				if err != nil {
					return err
				}
				if len(response.Decisions) == 0 {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), "There is nothing to do")
				}
				for _, d := range response.Decisions {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), d)
				}
				return err
			})
		},
	}
}

// memberID finds a member by name or by id.
func memberID(ctx context.Context, client *clientv3.Client, text string) (uint64, error) {
	list, err := client.MemberList(ctx)
	if err != nil {
		return 0, err
	}
	id, notID := strconv.ParseUint(text, 16, 64)
	for _, m := range list.Members {
		if m.Name == text || (notID == nil && m.ID == id) {
			return m.ID, nil
		}
	}
	return 0, &codedError{cobrautl.ExitBadArgs, fmt.Errorf("there is no member %q", text)}
}
