package api

import (
	"bytes"
	"context"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shardServer serves kvd's own admin API.
type shardServer struct {
	kvdpb.UnimplementedShardAdminServer
	router     Router
	cluster    Cluster
	operations Operations
}

// List implements kvdpb.ShardAdminServer.
func (s *shardServer) List(ctx context.Context, _ *kvdpb.ShardListRequest) (*kvdpb.ShardListResponse, error) {
	infos, version, err := s.router.Shards(ctx)
	if err != nil {
		return nil, err
	}
	resp := &kvdpb.ShardListResponse{MapVersion: version}
	for _, i := range infos {
		resp.Shards = append(resp.Shards, s.info(i))
	}
	return resp, nil
}

// Show implements kvdpb.ShardAdminServer.
func (s *shardServer) Show(ctx context.Context, req *kvdpb.ShardShowRequest) (*kvdpb.ShardShowResponse, error) {
	i, err := s.router.Shard(ctx, req.Id)
	if err != nil {
		return nil, err
	}
	return &kvdpb.ShardShowResponse{Shard: s.info(i)}, nil
}

// Split implements kvdpb.ShardAdminServer.
func (s *shardServer) Split(ctx context.Context, req *kvdpb.ShardSplitRequest) (*kvdpb.ShardSplitResponse, error) {
	if len(req.Key) == 0 {
		return nil, status.Error(codes.InvalidArgument, "kvd: the key to split at is empty")
	}
	left, right, err := s.router.Split(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	resp := &kvdpb.ShardSplitResponse{}
	for _, half := range []struct {
		desc *kvdpb.Descriptor
		to   **kvdpb.ShardInfo
	}{{left, &resp.Left}, {right, &resp.Right}} {
		i, err := s.router.Shard(ctx, half.desc.Shard)
		if err != nil {
			// The split is done; this member may not have heard of it.
			i = router.ShardInfo{Descriptor: half.desc}
		}
		*half.to = s.info(i)
	}
	return resp, nil
}

func (s *shardServer) info(i router.ShardInfo) *kvdpb.ShardInfo {
	d := i.Descriptor
	out := &kvdpb.ShardInfo{Id: d.Shard, Generation: d.Generation, SizeBytes: -1, Keys: -1, Phase: "unknown", PreferredOwnerMemberId: d.PreferredOwner}
	out.Start, out.StartInternal = bound(d.Start)
	if !bytes.Equal(d.End, keyspace.Max()) {
		out.End, out.EndInternal = bound(d.End)
	}
	out.Operation = i.Operation.Words(d, s.nameOrID)
	if i.Operation == placement.Splitting && i.Child != nil {
		seeded, replicas := placement.SplitProgress(i.Child)
		out.Operation += fmt.Sprintf(" to shard %d (%d of %d)", i.Child.Shard, seeded, replicas)
	}
	applied := i.Status.GetAppliedIndex()
	for _, r := range d.Replicas {
		replica := &kvdpb.ShardReplica{
			ReplicaId: r.Replica, MemberId: r.Member, MemberName: s.name(r.Member), NonVoting: r.NonVoting, Joining: r.Joining, Leaving: r.Leaving,
			Rebuild: r.Rebuild, Corrupt: !r.Joining && placement.Corrupt(s.cluster.StandingAlarms(), d.Shard, r.Member),
		}
		for _, o := range d.Replicas {
			if r.Replaces != 0 && o.Replica == r.Replaces {
				replica.ReplacesMemberId = o.Member
			}
		}
		if r.Joining {
			replica.AppliedIndex = i.Joining.GetAppliedIndex()
			// What it has applied may be newer than what the owner told.
			out.Operation += fmt.Sprintf(" (%d of %d)", replica.AppliedIndex, max(applied, replica.AppliedIndex))
		}
		out.Replicas = append(out.Replicas, replica)
	}
	if st := i.Status; st != nil {
		out.OwnerMemberId, out.OwnerMemberName, out.Epoch = st.OwnerMember, s.name(st.OwnerMember), st.Epoch
		out.SizeBytes, out.Keys, out.AppliedIndex, out.Revision = st.SizeBytes, st.Keys, st.AppliedIndex, st.Revision
		if st.Phase != "" {
			out.Phase = st.Phase
		}
	}
	return out
}

// bound shows an encoded key as users write it.
func bound(encoded []byte) (key []byte, internal bool) {
	if key, ok := keyspace.UserKey(encoded); ok {
		return key, false
	}
	key, internal = keyspace.InternalName(encoded)
	return key, internal
}

func (s *shardServer) name(member uint64) string {
	for _, m := range s.cluster.Members() {
		if m.Id == member {
			return m.Name
		}
	}
	return ""
}

// nameOrID is a member's name, or its id as etcdctl writes ids.
func (s *shardServer) nameOrID(member uint64) string {
	if name := s.name(member); name != "" {
		return name
	}
	return fmt.Sprintf("%x", member)
}
