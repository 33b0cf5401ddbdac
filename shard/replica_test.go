package shard

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// call sends a request and returns where its answer will be.
func call(r *Replica, req *Request) <-chan answer {
	ch := make(chan answer, 1)
	if req.Ctx == nil {
		req.Ctx = context.Background()
	}
	req.Done = func(reply *Reply, err error) { ch <- answer{reply, err} }
	r.Do(req)
	return ch
}

type answer struct {
	reply *Reply
	err   error
}

func putReq(key, value string) *Request {
	return &Request{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

func getReq(key string) *Request {
	return &Request{Range: &pb.RangeRequest{Key: []byte(key)}}
}

func listReq(from, to string) *Request {
	return &Request{Range: &pb.RangeRequest{Key: []byte(from), RangeEnd: []byte(to)}}
}

func await(t testing.TB, ch <-chan answer) *Reply {
	t.Helper()
	a := <-ch
	require.NoError(t, a.err)
	return a.reply
}

// single returns a serving replica of a group of one.
func single(t testing.TB, mutate func(*Config)) (*Replica, *fakeSequencer, *fakeGroup) {
	seq := newFakeSequencer()
	g := newFakeGroup(t)
	n := g.addNode(seq, mutate)
	g.lead(n)
	until(t, "serving", n.replica.Serving)
	return n.replica, seq, g
}

func TestPutAndGet(t *testing.T) {
	r, _, _ := single(t, nil)
	put := await(t, call(r, putReq("k", "v1")))
	require.Equal(t, int64(2), put.Revision)
	require.Equal(t, int64(2), put.Put.Header.Revision)
	put = await(t, call(r, putReq("k", "v2")))
	require.Equal(t, int64(3), put.Revision)

	get := await(t, call(r, getReq("k")))
	require.Equal(t, int64(3), get.Range.Header.Revision)
	require.Len(t, get.Range.Kvs, 1)
	kv := get.Range.Kvs[0]
	require.Equal(t, "k", string(kv.Key))
	require.Equal(t, "v2", string(kv.Value))
	require.Equal(t, int64(2), kv.CreateRevision)
	require.Equal(t, int64(3), kv.ModRevision)
	require.Equal(t, int64(2), kv.Version)

	old := listReq("a", "z")
	old.Range.Revision = 2
	reply := await(t, call(r, old))
	require.Equal(t, int64(3), reply.Range.Header.Revision)
	require.Equal(t, "v1", string(reply.Range.Kvs[0].Value))

	del := await(t, call(r, &Request{Delete: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}}))
	require.Equal(t, int64(1), del.Delete.Deleted)
	require.Equal(t, int64(4), del.Revision)
	nothing := await(t, call(r, &Request{Delete: &pb.DeleteRangeRequest{Key: []byte("k")}}))
	require.Equal(t, int64(4), nothing.Revision, "a delete of nothing takes no revision")
	require.Zero(t, nothing.Delete.Deleted)
	require.Zero(t, await(t, call(r, getReq("k"))).Range.Count)
}

func TestManyWritersGetDenseRevisions(t *testing.T) {
	r, _, _ := single(t, func(c *Config) { c.Limits.BatchWrites = 16 })
	const writers, each = 50, 40
	revisions := make(chan int64, writers*each)
	for w := range writers {
		var next func(i int)
		next = func(i int) {
			req := putReq(fmt.Sprintf("key-%d", (w*i)%97), fmt.Sprintf("%d-%d", w, i))
			req.Ctx = context.Background()
			req.Done = func(reply *Reply, err error) {
				if err != nil {
					t.Error(err)
				}
				revisions <- reply.Revision
				if i+1 < each {
					go next(i + 1)
				}
			}
			r.Do(req)
		}
		go next(0)
	}
	seen := map[int64]bool{}
	for range writers * each {
		rev := <-revisions
		require.False(t, seen[rev])
		seen[rev] = true
	}
	for rev := int64(2); rev < 2+writers*each; rev++ {
		require.True(t, seen[rev], "revision %d", rev)
	}
	require.Zero(t, r.Stats().RevisionAlarms)
}
