package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/tests/cluster"
)

// ask calls fn with the client of one member after the other until one answers.
func (r *round) ask(ctx context.Context, fn func(context.Context, *clientv3.Client) error) error {
	var errs []error
	for i, m := range r.cluster.Members {
		if !m.Running() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		err := fn(ctx, r.plain[i])
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// shards are all shards, in the order of their keys.
func (r *round) shards(ctx context.Context) ([]*kvdpb.ShardInfo, error) {
	var shards []*kvdpb.ShardInfo
	err := r.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		resp, err := kvdpb.NewShardAdminClient(cli.ActiveConnection()).List(ctx, &kvdpb.ShardListRequest{})
		shards = resp.GetShards()
		return err
	})
	return shards, err
}

// shardOf finds the shard of a key; nil where nobody can tell.
func (r *round) shardOf(ctx context.Context, key string) *kvdpb.ShardInfo {
	shards, err := r.shards(ctx)
	if err != nil {
		return nil
	}
	for _, s := range shards {
		if !s.StartInternal && string(s.Start) <= key && (s.EndInternal || len(s.End) == 0 || key < string(s.End)) {
			return s
		}
	}
	return nil
}

// ownerOf finds who owns the shard of a key; where nobody can tell, it is the first member.
func (r *round) ownerOf(ctx context.Context, key string) (*cluster.Member, error) {
	if m := r.ids[r.shardOf(ctx, key).GetOwnerMemberId()]; m != nil {
		return m, nil
	}
	return r.cluster.Members[0], nil
}

func (r *round) sequencer(ctx context.Context) (*cluster.Member, error) {
	m := r.cluster.Members[0]
	_ = r.ask(ctx, func(ctx context.Context, cli *clientv3.Client) error {
		resp, err := cli.Status(ctx, cli.Endpoints()[0])
		if err == nil && r.ids[resp.Leader] != nil {
			m = r.ids[resp.Leader]
		}
		return err
	})
	return m, nil
}

// takeSplit tells whether another split is allowed: each one leaves a shard behind.
func (r *round) takeSplit() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.splits++
	return r.mu.splits <= maxSplits
}

func (r *round) split(ctx context.Context, key string) error {
	_, err := kvdpb.NewShardAdminClient(r.reachable().ActiveConnection()).Split(ctx, &kvdpb.ShardSplitRequest{Key: []byte(key)})
	return err
}

// merge merges the shard of a key with its right neighbour, or cancels that after a while.
func (r *round) merge(ctx context.Context, key string, cancels bool, after time.Duration) error {
	shard := r.shardOf(ctx, key)
	if shard == nil {
		return errors.New("nobody tells which shard that is")
	}
	admin := kvdpb.NewShardAdminClient(r.reachable().ActiveConnection())
	_, err := admin.Merge(ctx, &kvdpb.ShardMergeRequest{Id: shard.Id, NoWait: cancels})
	if err != nil || !cancels {
		return err
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
	}
	_, err = admin.Cancel(ctx, &kvdpb.ShardCancelRequest{Id: shard.Id})
	return err
}

func (r *round) transfer(ctx context.Context, key string, to *cluster.Member) error {
	shard := r.shardOf(ctx, key)
	if shard == nil {
		return errors.New("nobody tells which shard that is")
	}
	for id, m := range r.ids {
		if m == to {
			_, err := kvdpb.NewShardAdminClient(r.reachable().ActiveConnection()).Transfer(ctx, &kvdpb.ShardTransferRequest{Id: shard.Id, MemberId: id})
			return err
		}
	}
	return fmt.Errorf("the id of %s is not known", to.Name)
}

// move takes a replica of the shard of a key to a member that has none; which ones follows from pick.
func (r *round) move(ctx context.Context, key string, pick uint64) error {
	shard := r.shardOf(ctx, key)
	if shard == nil {
		return errors.New("nobody tells which shard that is")
	}
	var without []uint64
	for id := range r.ids {
		if !slices.ContainsFunc(shard.Replicas, func(s *kvdpb.ShardReplica) bool { return s.MemberId == id }) {
			without = append(without, id)
		}
	}
	if len(without) == 0 || len(shard.Replicas) == 0 {
		return errors.New("every member has a replica")
	}
	slices.Sort(without)
	_, err := kvdpb.NewShardAdminClient(r.reachable().ActiveConnection()).Move(ctx, &kvdpb.ShardMoveRequest{
		Id: shard.Id, FromMemberId: shard.Replicas[pick%uint64(len(shard.Replicas))].MemberId, ToMemberId: without[pick%uint64(len(without))],
	})
	return err
}

// reachable is the client of a member that runs.
func (r *round) reachable() *clientv3.Client {
	cli := r.plain[0]
	for i, m := range r.cluster.Members {
		if m.Running() {
			cli = r.plain[i]
		}
	}
	return cli
}
