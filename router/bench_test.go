package router

import (
	"context"
	"testing"

	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// BenchmarkPut measures a put without the shard: at the owner's member, and
// forwarded over a mesh of memory.
func BenchmarkPut(b *testing.B) {
	w := newWorld(b, 2)
	rep := &shard.Reply{Put: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 3}}, Revision: 3}
	w.edit(100, func(s *fakeShard) { s.instant = rep })
	put := &pb.PutRequest{Key: make([]byte, 30), Value: make([]byte, 256)}
	raw, _ := wire.AppendRequest(nil, put)
	for name, m := range map[string]*fakeMember{"local": w.member(1), "remote": w.member(2)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					res, err := m.router.Do(context.Background(), put, raw)
					if err != nil {
						b.Error(err)
						return
					}
					freeBody(res.Body)
				}
			})
		})
	}
}
