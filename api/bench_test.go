package api

import (
	"context"
	"net"
	"testing"

	"github.com/kvd-io/kvd/router"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// instantRouter answers at once, so that what is measured is the client port.
type instantRouter struct {
	Router
	get *pb.RangeResponse
}

func (r *instantRouter) Do(_ context.Context, req proto.Message, _ []byte) (router.Response, error) {
	if _, ok := req.(*pb.RangeRequest); ok {
		return router.Response{Message: r.get, Revision: 9}, nil
	}
	return router.Response{Message: &pb.PutResponse{}, Revision: 9}, nil
}

// emptyServer is the ceiling: gRPC with its own codec and handlers.
type emptyServer struct {
	pb.UnimplementedKVServer
	get *pb.RangeResponse
}

func (s *emptyServer) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return s.get, nil
}

func (s *emptyServer) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 9}}, nil
}

// BenchmarkClientPort compares the client port with an empty gRPC server, client
// included.
func BenchmarkClientPort(b *testing.B) {
	for _, size := range []int{1, 1000} {
		get := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 9}, Count: int64(size)}
		for range size {
			get.Kvs = append(get.Kvs, &mvccpb.KeyValue{Key: make([]byte, 30), Value: make([]byte, 256), ModRevision: 1 << 30, CreateRevision: 5, Version: 1})
		}
		name := map[int]string{1: "get", 1000: "list1000"}[size]
		ours := newFixture(b, func(c *Config) { c.Router = &instantRouter{get: get} })
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		empty := grpc.NewServer()
		pb.RegisterKVServer(empty, &emptyServer{get: get})
		go func() { _ = empty.Serve(l) }()
		b.Cleanup(empty.Stop)
		for server, addr := range map[string]string{"kvd": ours.addr, "empty": l.Addr().String()} {
			b.Run(name+"/"+server, func(b *testing.B) {
				benchmark(b, addr, func(kv pb.KVClient) error {
					_, err := kv.Range(context.Background(), &pb.RangeRequest{Key: make([]byte, 30)})
					return err
				})
			})
			if size == 1 {
				b.Run("put/"+server, func(b *testing.B) {
					put := &pb.PutRequest{Key: make([]byte, 30), Value: make([]byte, 256)}
					benchmark(b, addr, func(kv pb.KVClient) error {
						_, err := kv.Put(context.Background(), put)
						return err
					})
				})
			}
		}
	}
}

func benchmark(b *testing.B, addr string, call func(pb.KVClient) error) {
	b.ReportAllocs()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(b, err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := call(kv); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
