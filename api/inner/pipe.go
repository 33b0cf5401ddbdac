package inner

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// pipe is a stream. Its channels have no buffer, so nothing is on its way when the
// handler has returned.
type pipe struct {
	ctx    context.Context
	cancel context.CancelFunc
	codec  encoding.CodecV2

	requests, responses chan mem.BufferSlice
	// finished is closed when the client sends no more.
	finished chan struct{}
	finish   sync.Once
	// ended is closed when the handler has returned; err is set before.
	ended chan struct{}
	err   error
}

func newPipe(ctx context.Context, codec encoding.CodecV2) *pipe {
	p := &pipe{
		codec: codec, requests: make(chan mem.BufferSlice), responses: make(chan mem.BufferSlice),
		finished: make(chan struct{}), ended: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// end tells the client what the handler returned.
func (p *pipe) end(err error) {
	p.err = io.EOF
	if err != nil {
		p.err = asStatus(err)
	}
	close(p.ended)
	p.cancel()
}

// clientSide implements grpc.ClientStream.
type clientSide struct{ *pipe }

// Context implements grpc.ClientStream.
func (p clientSide) Context() context.Context { return p.ctx }

// Header implements grpc.ClientStream: there is none.
func (p clientSide) Header() (metadata.MD, error) { return nil, nil }

// Trailer implements grpc.ClientStream: there is none.
func (p clientSide) Trailer() metadata.MD { return nil }

// CloseSend implements grpc.ClientStream.
func (p clientSide) CloseSend() error {
	p.finish.Do(func() { close(p.finished) })
	return nil
}

// SendMsg implements grpc.ClientStream: io.EOF says that the stream has ended, and
// RecvMsg why.
func (p clientSide) SendMsg(v any) error {
	data, err := copyOf(p.codec, v)
	if err != nil {
		return err
	}
	select {
	case p.requests <- data:
		return nil
	case <-p.ctx.Done():
		return io.EOF
	}
}

// RecvMsg implements grpc.ClientStream.
func (p clientSide) RecvMsg(v any) error {
	select {
	case data := <-p.responses:
		return p.codec.Unmarshal(data, v)
	case <-p.ended:
		return p.err
	case <-p.ctx.Done():
	}
	// The handler's own words are better, if it has spoken.
	select {
	case <-p.ended:
		return p.err
	default:
		return status.FromContextError(p.ctx.Err()).Err()
	}
}

// serverSide implements grpc.ServerStream.
type serverSide struct{ *pipe }

// Context implements grpc.ServerStream.
func (p serverSide) Context() context.Context { return p.ctx }

// SetHeader implements grpc.ServerStream: nobody asks for headers.
func (p serverSide) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream, as SetHeader.
func (p serverSide) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream, as SetHeader.
func (p serverSide) SetTrailer(metadata.MD) {}

// SendMsg implements grpc.ServerStream.
func (p serverSide) SendMsg(v any) error {
	data, err := copyOf(p.codec, v)
	if err != nil {
		return err
	}
	select {
	case p.responses <- data:
		return nil
	case <-p.ctx.Done():
		return status.FromContextError(p.ctx.Err()).Err()
	}
}

// RecvMsg implements grpc.ServerStream.
func (p serverSide) RecvMsg(v any) error {
	select {
	case data := <-p.requests:
		return p.codec.Unmarshal(data, v)
	default:
	}
	select {
	case data := <-p.requests:
		return p.codec.Unmarshal(data, v)
	case <-p.finished:
		return io.EOF
	case <-p.ctx.Done():
		return status.FromContextError(p.ctx.Err()).Err()
	}
}
