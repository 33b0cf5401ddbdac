package inner

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Services are what can be called. They are registered before the first call.
type Services struct {
	codec   encoding.CodecV2
	unary   grpc.UnaryServerInterceptor
	stream  grpc.StreamServerInterceptor
	methods map[string]method
	streams map[string]streamMethod
}

type method struct {
	server any
	handle grpc.MethodHandler
}

type streamMethod struct {
	server any
	desc   grpc.StreamDesc
}

// New returns a registry without services. The first interceptor is the outermost.
func New(codec encoding.CodecV2, unary []grpc.UnaryServerInterceptor, stream []grpc.StreamServerInterceptor) *Services {
	return &Services{
		codec: codec, unary: chainUnary(unary), stream: chainStream(stream),
		methods: map[string]method{}, streams: map[string]streamMethod{},
	}
}

func chainUnary(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for i := len(all) - 1; i >= 0; i-- {
			intercept, next := all[i], handler
			handler = func(ctx context.Context, req any) (any, error) { return intercept(ctx, req, info, next) }
		}
		return handler(ctx, req)
	}
}

func chainStream(all []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		for i := len(all) - 1; i >= 0; i-- {
			intercept, next := all[i], handler
			handler = func(server any, stream grpc.ServerStream) error { return intercept(server, stream, info, next) }
		}
		return handler(server, stream)
	}
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Services) RegisterService(desc *grpc.ServiceDesc, server any) {
	for _, m := range desc.Methods {
		s.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{server: server, handle: m.Handler}
	}
	for _, m := range desc.Streams {
		s.streams["/"+desc.ServiceName+"/"+m.StreamName] = streamMethod{server: server, desc: m}
	}
}

// As returns a connection whose calls come from whom the request of ctx comes from.
// It holds nothing that must be closed.
func (s *Services) As(ctx context.Context) *Conn {
	c := &Conn{services: s}
	c.metadata, _ = metadata.FromIncomingContext(ctx)
	c.peer, _ = peer.FromContext(ctx)
	return c
}

// Conn implements grpc.ClientConnInterface.
type Conn struct {
	services *Services
	metadata metadata.MD
	// peer is nil where the caller had none, as in tests.
	peer *peer.Peer
}

// as gives a context the caller's identity instead of any other that it has.
func (c *Conn) as(ctx context.Context) context.Context {
	ctx = metadata.NewIncomingContext(ctx, c.metadata)
	p := c.peer
	if p == nil {
		p = &peer.Peer{}
	}
	return peer.NewContext(ctx, p)
}

// Invoke implements grpc.ClientConnInterface. Options of calls mean nothing here.
func (c *Conn) Invoke(ctx context.Context, name string, args, reply any, _ ...grpc.CallOption) error {
	s := c.services
	m, ok := s.methods[name]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", name)
	}
	request, err := s.codec.Marshal(args)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the request of %s: %v", name, err)
	}
	defer request.Free()
	decode := func(v any) error { return s.codec.Unmarshal(request, v) }
	result, err := m.handle(m.server, c.as(ctx), decode, s.unary)
	if err != nil {
		return asStatus(err)
	}
	response, err := s.codec.Marshal(result)
	if err != nil {
		return status.Errorf(codes.Internal, "encode the response of %s: %v", name, err)
	}
	defer response.Free()
	if err := s.codec.Unmarshal(response, reply); err != nil {
		return status.Errorf(codes.Internal, "decode the response of %s: %v", name, err)
	}
	return nil
}

// asStatus makes an error one that gRPC would have sent.
func asStatus(err error) error {
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.FromContextError(err).Err()
}

// NewStream implements grpc.ClientConnInterface.
func (c *Conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, name string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	s := c.services
	m, ok := s.streams[name]
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "unknown stream %s", name)
	}
	p := newPipe(c.as(ctx), s.codec)
	info := &grpc.StreamServerInfo{FullMethod: name, IsClientStream: m.desc.ClientStreams, IsServerStream: m.desc.ServerStreams}
	go func() { p.end(s.stream(m.server, serverSide{p}, info, m.desc.Handler)) }()
	return clientSide{p}, nil
}

// copyOf encodes a message into memory that nobody else uses.
func copyOf(codec encoding.CodecV2, v any) (mem.BufferSlice, error) {
	data, err := codec.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a message: %w", err)
	}
	defer data.Free()
	return mem.BufferSlice{mem.SliceBuffer(data.Materialize())}, nil
}
