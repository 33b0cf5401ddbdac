package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Kinds of frames on the members' request channel that are calls.
const (
	frameCall      = 0xf0
	frameCallReply = 0xf1
)

const (
	// maxCalls bounds the calls of other members that are served at a time.
	maxCalls = 64
	// maxMethod bounds the name of a method in a frame.
	maxMethod = 256
)

// calls carries unary calls of one small service between members as frames of the request channel. Every member makes such
// a call when it starts, so it needs no gRPC connection for that: these are for bulk, and one that was just made costs
// several round trips. It also keeps what the log shows of HTTP/2, where that is asked for, to what clients send.
//
// A call ends with the reply, with its context, or with the connection; it is never sent twice.
type calls struct {
	send  func(to uint64, frame []byte) error
	desc  *grpc.ServiceDesc
	impl  any
	slots chan struct{}

	mu struct {
		sync.Mutex
		last    uint64
		waiting map[uint64]*pendingCall
		closed  bool
	}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// pendingCall is a call that waits for its reply.
type pendingCall struct {
	to   uint64
	done chan callReply
}

type callReply struct {
	code    codes.Code
	payload []byte // the response, or the text of the error
}

func newCalls(send func(to uint64, frame []byte) error) *calls {
	c := &calls{send: send, slots: make(chan struct{}, maxCalls)}
	// Replies to a former run of this member must find nobody.
	c.mu.last = rand.Uint64()
	c.mu.waiting = map[uint64]*pendingCall{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// serve makes a service's unary methods callable by other members. Call it before frames arrive.
func (c *calls) serve(desc *grpc.ServiceDesc, impl any) { c.desc, c.impl = desc, impl }

// close ends all calls.
func (c *calls) close() {
	c.mu.Lock()
	c.mu.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// to is a connection to another member.
func (c *calls) to(member uint64) grpc.ClientConnInterface { return callConn{c, member} }

type callConn struct {
	c  *calls
	to uint64
}

var errNoStreams = errors.New("calls between members have no streams")

// NewStream implements grpc.ClientConnInterface.
func (callConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errNoStreams
}

// Invoke implements grpc.ClientConnInterface.
func (conn callConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	request, ok := args.(proto.Message)
	response, isMessage := reply.(proto.Message)
	if !ok || !isMessage {
		return fmt.Errorf("call of %s with a %T for a %T", method, args, reply)
	}
	payload, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the call of %s: %w", method, err)
	}
	c := conn.c
	p := &pendingCall{to: conn.to, done: make(chan callReply, 1)}
	c.mu.Lock()
	c.mu.last++
	id := c.mu.last
	c.mu.waiting[id] = p
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.mu.waiting, id)
		c.mu.Unlock()
	}()
	frame := binary.AppendUvarint([]byte{frameCall}, id)
	frame = binary.AppendUvarint(frame, uint64(len(method)))
	frame = append(append(frame, method...), payload...)
	if err := c.send(conn.to, frame); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	select {
	case r := <-p.done:
		if r.code != codes.OK {
			return status.Error(r.code, string(r.payload))
		}
		return proto.Unmarshal(r.payload, response)
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-c.ctx.Done():
		return status.Error(codes.Unavailable, "the member stops")
	}
}

// peerDown ends the calls to a member whose connection was lost.
func (c *calls) peerDown(member uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.mu.waiting {
		if p.to == member {
			delete(c.mu.waiting, id)
			p.done <- callReply{codes.Unavailable, []byte("the connection was lost")}
		}
	}
}

var errCallFrame = errors.New("malformed call")

// handle takes in a frame of another member, which is valid only during the call. It does not block.
func (c *calls) handle(from uint64, frame []byte) error {
	id, n := binary.Uvarint(frame[1:])
	if n <= 0 {
		return errCallFrame
	}
	rest := frame[1+n:]
	if frame[0] == frameCallReply {
		if len(rest) == 0 {
			return errCallFrame
		}
		c.replied(from, id, callReply{codes.Code(rest[0]), append([]byte(nil), rest[1:]...)})
		return nil
	}
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > maxMethod || uint64(len(rest)-n) < size {
		return errCallFrame
	}
	method, payload := string(rest[n:n+int(size)]), append([]byte(nil), rest[n+int(size):]...)
	select {
	case c.slots <- struct{}{}:
	default:
		c.reply(from, id, nil, status.Error(codes.ResourceExhausted, "too many calls of other members"))
		return nil
	}
	if !c.begin() {
		return nil
	}
	go func() {
		defer c.wg.Done()
		defer func() { <-c.slots }()
		response, err := c.dispatch(method, payload)
		c.reply(from, id, response, err)
	}()
	return nil
}

// begin counts a call that close has to wait for.
func (c *calls) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.closed {
		c.wg.Add(1)
	}
	return !c.mu.closed
}

// replied completes a call. A reply that comes late finds nobody.
func (c *calls) replied(from, id uint64, r callReply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.mu.waiting[id]; p != nil && p.to == from {
		delete(c.mu.waiting, id)
		p.done <- r
	}
}

func (c *calls) dispatch(method string, payload []byte) (any, error) {
	if c.desc != nil {
		for i := range c.desc.Methods {
			m := &c.desc.Methods[i]
			if method != "/"+c.desc.ServiceName+"/"+m.MethodName {
				continue
			}
			return m.Handler(c.impl, c.ctx, func(into any) error {
				message, ok := into.(proto.Message)
				if !ok {
					return status.Errorf(codes.Internal, "a request that is a %T", into)
				}
				if err := proto.Unmarshal(payload, message); err != nil {
					return status.Error(codes.InvalidArgument, err.Error())
				}
				return nil
			}, nil)
		}
	}
	return nil, status.Errorf(codes.Unimplemented, "unknown method %q", method)
}

func (c *calls) reply(to, id uint64, response any, err error) {
	var payload []byte
	if err == nil {
		message, _ := response.(proto.Message)
		payload, err = proto.Marshal(message)
	}
	s := status.Convert(err)
	if s.Code() != codes.OK {
		payload = []byte(s.Message())
	}
	frame := append(binary.AppendUvarint([]byte{frameCallReply}, id), byte(s.Code()))
	// If the connection is gone, the caller knows.
	_ = c.send(to, append(frame, payload...))
}
