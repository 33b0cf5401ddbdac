package auth

import (
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

func put(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func get(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func del(key string, prev bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: prev}}}
}

func nest(m *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: m}}
}

func compare(key string) *pb.Compare { return &pb.Compare{Key: []byte(key)} }

// TestKV: each request with what it must not be permitted by.
func TestKV(t *testing.T) {
	w := newWorld(t, nil)
	w.user("root", "x", "root")
	w.role("role")
	w.grant("role", "r", "", kvdpb.AuthPermission_READ)
	w.grant("role", "w", "", kvdpb.AuthPermission_WRITE)
	w.grant("role", "b", "", kvdpb.AuthPermission_READWRITE)
	w.user("u", "x", "role")
	w.user("none", "x")
	w.turn(true)
	w.f.catchUp()
	rules := w.s.Rules()
	attached := func(lease int64) ([][]byte, error) {
		return map[int64][][]byte{1: {[]byte("w"), []byte("b")}, 2: {[]byte("r")}}[lease], nil
	}
	for i, c := range []struct {
		m    proto.Message
		want bool
	}{
		{&pb.RangeRequest{Key: []byte("r")}, true},
		{&pb.RangeRequest{Key: []byte("w")}, false},
		{&pb.RangeRequest{Key: []byte("b")}, true},
		{&pb.RangeRequest{Key: []byte("b"), RangeEnd: []byte("c")}, false},
		{&pb.PutRequest{Key: []byte("r")}, false},
		{&pb.PutRequest{Key: []byte("w")}, true},
		{&pb.PutRequest{Key: []byte("w"), PrevKv: true}, false},
		{&pb.PutRequest{Key: []byte("b"), PrevKv: true}, true},
		{&pb.PutRequest{Key: []byte("b"), Lease: 1}, true},
		{&pb.PutRequest{Key: []byte("b"), Lease: 2}, false},
		{&pb.PutRequest{Key: []byte("b"), Lease: 3}, true},
		{&pb.DeleteRangeRequest{Key: []byte("w")}, true},
		{&pb.DeleteRangeRequest{Key: []byte("w"), PrevKv: true}, false},
		{&pb.DeleteRangeRequest{Key: []byte("r")}, false},
		{&pb.TxnRequest{}, true},
		{&pb.TxnRequest{Compare: []*pb.Compare{compare("w")}}, false},
		{&pb.TxnRequest{Compare: []*pb.Compare{compare("r")}, Success: []*pb.RequestOp{put("w")}, Failure: []*pb.RequestOp{get("r"), del("b", true)}}, true},
		{&pb.TxnRequest{Success: []*pb.RequestOp{put("r")}}, false},
		{&pb.TxnRequest{Failure: []*pb.RequestOp{get("w")}}, false},
		{&pb.TxnRequest{Failure: []*pb.RequestOp{del("w", true)}}, false},
		{&pb.TxnRequest{Success: []*pb.RequestOp{nest(&pb.TxnRequest{Failure: []*pb.RequestOp{nest(&pb.TxnRequest{Success: []*pb.RequestOp{put("r")}})}})}}, false},
		{&pb.TxnRequest{Success: []*pb.RequestOp{nest(&pb.TxnRequest{Compare: []*pb.Compare{compare("w")}})}}, false},
		{&pb.TxnRequest{Success: []*pb.RequestOp{nest(&pb.TxnRequest{Success: []*pb.RequestOp{put("w"), get("r")}})}}, true},
		{&pb.CompactionRequest{}, false},
	} {
		err := rules.Named("u").KV(c.m, attached)
		if c.want {
			require.NoError(t, err, "request %d", i)
		} else {
			require.Equal(t, rpctypes.ErrGRPCPermissionDenied, err, "request %d", i)
		}
		if _, kv := c.m.(*pb.CompactionRequest); !kv {
			require.NoError(t, rules.Named("root").KV(c.m, attached), "root, request %d", i)
		}
	}
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, rules.Named("").Read([]byte("r"), nil))
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, rules.Named("").Root())
	require.Equal(t, rpctypes.ErrGRPCUserEmpty, rules.Named("").User())
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, rules.Named("none").Read([]byte("r"), nil))
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, rules.Named("gone").Read([]byte("r"), nil))
	require.Equal(t, rpctypes.ErrGRPCUserNotFound, rules.Named("gone").Root())
	require.Equal(t, rpctypes.ErrGRPCAuthOldRevision, (&Caller{rules: rules, name: "u", revision: 1}).Read([]byte("r"), nil))
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied, rules.Named("u").Watch(nil, []byte{0}))
	require.NoError(t, rules.Named("root").Watch(nil, []byte{0}))
	require.NoError(t, rules.Named("u").Watch([]byte("r"), nil))
	require.NoError(t, NewRules(newFakePlacement().Auth()).Named("").Root(), "auth is off")
}
