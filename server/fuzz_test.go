package server

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// FuzzRequests sends requests of every RPC of etcd's API to a member in this process: random messages, and random
// bytes. Whatever they hold, the member answers with a status that says what is wrong with them, and goes on.
func FuzzRequests(f *testing.F) {
	methods := fuzzMethods(f)
	c := newCluster(f, 1)
	cfg := c.config(f, 0, "--bcrypt-cost=4", "--max-request-bytes=65536")
	cfg.Logger = zap.NewNop()
	m, err := Start(f.Context(), cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(m.Close)
	conn, err := grpc.NewClient(strings.TrimPrefix(c.clients[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	for i := range methods {
		f.Add(uint8(i), uint64(1), []byte(nil))
		f.Add(uint8(i), uint64(i)*7919, []byte(nil))
		f.Add(uint8(i), uint64(0), []byte{0x0a, 0x03, 'k', 'e', 'y', 0x12, 0xff})
	}
	f.Fuzz(func(t *testing.T, which uint8, seed uint64, raw []byte) {
		method := methods[int(which)%len(methods)]
		rng := rand.New(rand.NewPCG(seed, 1))
		var sent [][]byte
		for range 1 + rng.IntN(3) {
			body := raw
			if len(raw) == 0 {
				msg := method.input.New()
				fill(msg, rng, 3)
				var err error
				if body, err = (proto.MarshalOptions{AllowPartial: true}).Marshal(msg.Interface()); err != nil {
					continue // a string that is not UTF-8 cannot be sent this way
				}
			}
			if method.dangerous(body) {
				return
			}
			sent = append(sent, body)
			if !method.many {
				break
			}
		}
		if err := method.send(conn, sent); !explained(err) {
			t.Errorf("%s of %x: %v", method.name, sent, err)
		}
		if h, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{}); err != nil {
			t.Fatalf("after %s of %x the member says %v, %v", method.name, sent, h, err)
		}
	})
}

type fuzzMethod struct {
	name  string
	input protoreflect.MessageType
	// stream says that answers, or requests too, may be many; many says that requests may.
	stream, many bool
}

// fuzzMethods lists etcd's RPCs.
func fuzzMethods(f *testing.F) (methods []fuzzMethod) {
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		s := services.Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			input, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			if err != nil {
				f.Fatal(err)
			}
			methods = append(methods, fuzzMethod{
				name: "/" + string(s.FullName()) + "/" + string(m.Name()), input: input,
				stream: m.IsStreamingClient() || m.IsStreamingServer(), many: m.IsStreamingClient(),
			})
		}
	}
	return methods
}

// dangerous requests, if they are good ones, end the cluster or have it refuse all others.
func (m *fuzzMethod) dangerous(body []byte) bool {
	switch {
	case slices.Contains([]string{"MemberAdd", "MemberRemove", "MemberUpdate", "AuthEnable"}, m.name[strings.LastIndexByte(m.name, '/')+1:]):
		return true
	case strings.HasSuffix(m.name, "/Alarm"):
		r := &pb.AlarmRequest{}
		return proto.Unmarshal(body, r) != nil || r.Action == pb.AlarmRequest_ACTIVATE
	}
	return false
}

// send sends what there is, says that there is no more, and reads some answers.
func (m *fuzzMethod) send(conn *grpc.ClientConn, bodies [][]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if !m.stream {
		if len(bodies) == 0 {
			return nil
		}
		var answer []byte
		return conn.Invoke(ctx, m.name, bodies[0], &answer, grpc.ForceCodecV2(rawCodec{}))
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, m.name, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	for _, body := range bodies {
		if err := s.SendMsg(body); err != nil {
			break // what went wrong is read below
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for range 20 {
		var answer []byte
		if err := s.RecvMsg(&answer); err != nil {
			return err
		}
	}
	return nil
}

// explained tells whether an error says what was wrong. A panic or a fault of the server's own does not.
func explained(err error) bool {
	if err == nil || errors.Is(err, io.EOF) {
		return true
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unknown:
		return strings.HasPrefix(s.Message(), "etcdserver: ") || strings.HasPrefix(s.Message(), "kvd: ")
	case codes.Internal:
		// What gRPC says of bytes that are no message.
		return strings.Contains(s.Message(), "unmarshal")
	case codes.DataLoss:
		return false
	}
	return true
}

// rawCodec carries bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }

var _ encoding.CodecV2 = rawCodec{}

// fill gives random values to about half of a message's fields: small ones that make sense together, and extreme ones.
func fill(m protoreflect.Message, rng *rand.Rand, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rng.IntN(2) == 0 || (f.Message() != nil && depth == 0) {
			continue
		}
		switch {
		case f.IsMap():
		case f.IsList():
			list := m.Mutable(f).List()
			for range rng.IntN(4) {
				if f.Message() != nil {
					fill(list.AppendMutable().Message(), rng, depth-1)
				} else {
					list.Append(scalar(f, rng))
				}
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), rng, depth-1)
		default:
			m.Set(f, scalar(f, rng))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor, rng *rand.Rand) protoreflect.Value {
	integer := func() int64 {
		return []int64{0, 1, 2, 3, 5, 100, -1, math.MaxInt32, math.MaxInt64, math.MinInt64}[rng.IntN(10)]
	}
	bytes := func() []byte {
		return [][]byte{nil, {0}, []byte("a"), []byte("b"), []byte("zz"), {0xff}, slices.Repeat([]byte("x"), 3000)}[rng.IntN(7)]
	}
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rng.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rng.IntN(7) - 1))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(integer()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(integer())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(integer()))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(integer()))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.ToValidUTF8(string(bytes()), ""))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(bytes())
	}
	return f.Default()
}
