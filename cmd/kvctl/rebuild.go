package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

func newShardRebuildCommand(global *command.GlobalFlags) *cobra.Command {
	var member string
	var noWait bool
	rebuild := &cobra.Command{
		Use:   "rebuild <shard-id>",
		Short: "Makes a member's replica of a shard anew from the others",
		Long: `Gives up the data of a replica that is not what the others have, and makes a new one on the same member from them. Without
--member it is the replica that was found to differ, which shard list shows as corrupt. Reads and watches go on meanwhile. The
alarm CORRUPT that this raised ends with the last replica of the member that was found to differ.

A majority of the other replicas must be sound and connected. The rebuild goes on when this command is interrupted, and when
members crash; shard list shows how far it is, and shard cancel takes it back until the old replica leaves.
` + membersHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := shardID(args[0])
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("command-timeout") {
				global.CommandTimeOut = moveTimeout
			}
			return withClient(cmd, global, func(ctx context.Context, client *clientv3.Client, admin kvdpb.ShardAdminClient) error {
				request := &kvdpb.ShardRebuildRequest{Id: id, NoWait: noWait}
				if member != "" {
					if request.MemberId, err = memberID(ctx, client, member); err != nil {
						return err
					}
				}
				response, err := admin.Rebuild(ctx, request)
				if err != nil {
					return err
				}
				name := nameOfMember(ctx, client, response.MemberId)
				if noWait {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Shard %d begins to be rebuilt on %s\n", id, name)
				} else {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Shard %d is rebuilt on %s as replica %d\n", id, name, response.ReplicaId)
				}
				return err
			})
		},
	}
	rebuild.Flags().StringVar(&member, "member", "", "the member whose replica is made anew")
	rebuild.Flags().BoolVar(&noWait, "no-wait", false, "return once the rebuild has begun")
	return rebuild
}

// nameOfMember is how people call a member.
func nameOfMember(ctx context.Context, client *clientv3.Client, id uint64) string {
	list, err := client.MemberList(ctx)
	if err != nil {
		return memberName("", id) // what was asked for is done
	}
	for _, m := range list.Members {
		if m.ID == id {
			return memberName(m.Name, id)
		}
	}
	return memberName("", id)
}
