package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// fakeAdmin serves a list of shards and remembers the keys that were split.
type fakeAdmin struct {
	kvdpb.UnimplementedShardAdminServer
	shards []*kvdpb.ShardInfo
	split  [][]byte
}

func (f *fakeAdmin) List(context.Context, *kvdpb.ShardListRequest) (*kvdpb.ShardListResponse, error) {
	return &kvdpb.ShardListResponse{Shards: f.shards}, nil
}

func (f *fakeAdmin) Show(_ context.Context, request *kvdpb.ShardShowRequest) (*kvdpb.ShardShowResponse, error) {
	for _, shard := range f.shards {
		if shard.Id == request.Id {
			return &kvdpb.ShardShowResponse{Shard: shard}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no shard %d", request.Id)
}

func (f *fakeAdmin) Rebuild(_ context.Context, request *kvdpb.ShardRebuildRequest) (*kvdpb.ShardRebuildResponse, error) {
	if request.MemberId != 0 || request.Id != 2 {
		return nil, status.Error(codes.FailedPrecondition, "kvd: shard is busy")
	}
	response := &kvdpb.ShardRebuildResponse{MemberId: 0xabc}
	if !request.NoWait {
		response.ReplicaId = 7
	}
	return response, nil
}

func (f *fakeAdmin) Split(_ context.Context, request *kvdpb.ShardSplitRequest) (*kvdpb.ShardSplitResponse, error) {
	f.split = append(f.split, request.Key)
	return &kvdpb.ShardSplitResponse{Left: f.shards[0], Right: f.shards[1]}, nil
}

func twoShards() []*kvdpb.ShardInfo {
	replicas := []*kvdpb.ShardReplica{
		{ReplicaId: 1, MemberId: 0xabc, MemberName: "m1"},
		{ReplicaId: 2, MemberId: 0x8e9e05c52164694d},
		{ReplicaId: 3, MemberId: 0xdef, MemberName: "m3", NonVoting: true},
	}
	return []*kvdpb.ShardInfo{
		{Id: 2, End: []byte("a\x00b"), Generation: 3, OwnerMemberId: 0xabc, OwnerMemberName: "m1", Epoch: 7, Replicas: replicas,
			SizeBytes: 12345678, Keys: 1000, Phase: "serving", AppliedIndex: 99, Revision: 55},
		{Id: 9, Start: []byte("a\x00b"), EndInternal: true, Generation: 1, Replicas: replicas[:1], SizeBytes: -1, Keys: -1, Phase: "unknown"},
	}
}

// serve starts a server with the service and answers its address.
func serve(t *testing.T, admin kvdpb.ShardAdminServer, options ...grpc.ServerOption) string {
	t.Helper()
	return serveAlso(t, admin, func(*grpc.Server) {}, options...)
}

// serveAlso is serve with more services.
func serveAlso(t *testing.T, admin kvdpb.ShardAdminServer, more func(*grpc.Server), options ...grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(options...)
	if admin != nil {
		kvdpb.RegisterShardAdminServer(server, admin)
	}
	more(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Stop
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String()
}

// kvctl runs a command line and answers what it printed and its exit code.
func kvctl(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	code = exitCode(root.Execute())
	return out.String(), errs.String(), code
}

func TestShardListForPeople(t *testing.T) {
	address := serve(t, &fakeAdmin{shards: twoShards()})
	out, _, code := kvctl("--endpoints", address, "shard", "list")
	require.Zero(t, code)
	require.Equal(t, `
ID  START     END         GENERATION  OWNER  REPLICAS                               SIZE   KEYS  PHASE
2   (start)   "a\x00b"    3           m1     m1, 8e9e05c52164694d, m3 (non-voting)  12 MB  1000  serving
9   "a\x00b"  (internal)  1           ?      m1                                     ?      ?     unknown
`, "\n"+out)

	out, _, code = kvctl("--endpoints", address, "shard", "list", "-w", "table")
	require.Zero(t, code)
	require.Equal(t, `
+----+----------+------------+------------+-------+---------------------------------------+-------+------+---------+
| ID | START    | END        | GENERATION | OWNER | REPLICAS                              | SIZE  | KEYS | PHASE   |
+----+----------+------------+------------+-------+---------------------------------------+-------+------+---------+
| 2  | (start)  | "a\x00b"   | 3          | m1    | m1, 8e9e05c52164694d, m3 (non-voting) | 12 MB | 1000 | serving |
| 9  | "a\x00b" | (internal) | 1          | ?     | m1                                    | ?     | ?    | unknown |
+----+----------+------------+------------+-------+---------------------------------------+-------+------+---------+
`, "\n"+out)
}

func TestShardListForPrograms(t *testing.T) {
	address := serve(t, &fakeAdmin{shards: twoShards()})
	out, _, code := kvctl("shard", "list", "-w", "json", "--endpoints="+address)
	require.Zero(t, code)
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.UseNumber()
	var got []map[string]any
	require.NoError(t, decoder.Decode(&got))
	require.Len(t, got, 2)
	require.Equal(t, json.Number("2"), got[0]["id"])
	require.Equal(t, "", got[0]["start"])
	require.Equal(t, `"a\x00b"`, got[0]["end"])
	require.Equal(t, map[string]any{"member_id": json.Number("2748"), "name": "m1"}, got[0]["owner"])
	require.Equal(t, json.Number("12345678"), got[0]["size_bytes"])
	require.Equal(t, map[string]any{"replica_id": json.Number("3"), "member_id": json.Number("3567"), "name": "m3", "voting": false}, got[0]["replicas"].([]any)[2])
	require.Nil(t, got[1]["owner"])
	require.Nil(t, got[1]["keys"])
	require.Equal(t, true, got[1]["end_internal"])

	out, _, code = kvctl("shard", "show", "9", "-w", "json", "--endpoints="+address)
	require.Zero(t, code)
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Len(t, got, 1)
}

func TestShardSplitReadsKeys(t *testing.T) {
	admin := &fakeAdmin{shards: twoShards()}
	address := serve(t, admin)
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"plain"}, "plain"},
		{[]string{`back\x00slash`}, `back\x00slash`},
		{[]string{`"a\x00b"`}, "a\x00b"},
		{[]string{"--escaped", `a\x00\"b`}, "a\x00\"b"},
		{[]string{"--escaped", `"a"`}, "a"},
		{[]string{"--", "-dash"}, "-dash"},
	} {
		out, errs, code := kvctl(append([]string{"--endpoints", address, "shard", "split"}, row.args...)...)
		require.Zero(t, code, errs)
		require.Equal(t, row.want, string(admin.split[len(admin.split)-1]))
		require.Equal(t, 3, strings.Count(out, "\n"), "both halves are shown")
	}
	count := len(admin.split)
	for _, args := range [][]string{{""}, {`""`}, {`"open`}, {"--escaped", `\xzz`}, {"--escaped", ""}} {
		_, errs, code := kvctl(append([]string{"--endpoints", address, "shard", "split"}, args...)...)
		require.Equal(t, cobrautl.ExitBadArgs, code)
		require.Contains(t, errs, "Error: ")
	}
	require.Len(t, admin.split, count)
}

func TestShardErrors(t *testing.T) {
	address := serve(t, &fakeAdmin{shards: twoShards()})
	foreign := serve(t, nil)
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--endpoints", address, "shard", "show", "77"}, cobrautl.ExitError, "Error: no shard 77\n"},
		{[]string{"--endpoints", address, "shard", "melt"}, cobrautl.ExitBadArgs, `unknown shard command "melt"`},
		{[]string{"--endpoints", address, "shard", "show", "two"}, cobrautl.ExitBadArgs, `Error: "two" is not the id of a shard`},
		{[]string{"--endpoints", address, "shard", "show"}, cobrautl.ExitError, "Error: accepts 1 arg(s), received 0"},
		{[]string{"--endpoints", address, "shard", "list", "-w", "protobuf"}, cobrautl.ExitBadFeature, "Error: unsupported output format"},
		{[]string{"--endpoints", foreign, "shard", "list"}, cobrautl.ExitBadFeature, "Error: the endpoint has no shards to show: it is not kvd\n"},
		{[]string{"--endpoints", "127.0.0.1:1", "--command-timeout=200ms", "shard", "list"}, cobrautl.ExitBadConnection, "Error: "},
		{[]string{"--endpoints", address, "--cacert", "/nonexistent", "shard", "list"}, cobrautl.ExitBadArgs, "/nonexistent"},
		{[]string{"--no-such-flag"}, cobrautl.ExitError, "Error: unknown flag: --no-such-flag"},
	} {
		_, errs, code := kvctl(row.args...)
		require.Equal(t, row.code, code, "%v: %s", row.args, errs)
		require.Contains(t, errs, row.want, row.args)
	}
}

func TestEnvironmentReachesShardCommands(t *testing.T) {
	address := serve(t, &fakeAdmin{shards: twoShards()})
	t.Setenv("ETCDCTL_ENDPOINTS", "") // restored, whatever the command sets
	t.Setenv("ETCDCTL_WRITE_OUT", "json")
	t.Setenv("KVCTL_ENDPOINTS", address)
	out, errs, code := kvctl("shard", "list")
	require.Zero(t, code, errs)
	require.True(t, strings.HasPrefix(out, `[{"id":2,`), out)

	require.NoError(t, os.Unsetenv("ETCDCTL_ENDPOINTS"))
	t.Setenv("KVCTL_ENDPOINTS", "127.0.0.1:1")
	_, errs, code = kvctl("shard", "list", "--endpoints", address)
	require.Zero(t, code, "a flag beats KVCTL_: %s", errs)
}

func TestShardCommandsOverTLS(t *testing.T) {
	dir := t.TempDir()
	info, err := transport.SelfCert(zap.NewNop(), dir, []string{"127.0.0.1:0"}, 1)
	require.NoError(t, err)
	info.TrustedCAFile = "" // no client certificate is asked for
	config, err := info.ServerConfig()
	require.NoError(t, err)
	address := serve(t, &fakeAdmin{shards: twoShards()}, grpc.Creds(credentials.NewTLS(config)))

	_, errs, code := kvctl("--endpoints", "https://"+address, "--cacert", filepath.Join(dir, "cert.pem"), "shard", "list")
	require.Zero(t, code, errs)
	_, errs, code = kvctl("--endpoints", "https://"+address, "--insecure-transport=false", "--insecure-skip-tls-verify", "shard", "list")
	require.Zero(t, code, errs)
	_, _, code = kvctl("--endpoints", "https://"+address, "--command-timeout=300ms", "shard", "list")
	require.NotZero(t, code, "nobody vouches for the certificate")
}
