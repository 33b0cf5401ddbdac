package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// echo answers updates with what hold lets through.
type echo struct {
	kvdpb.UnimplementedPlacementServer
	hold chan struct{}
}

func (e *echo) Update(ctx context.Context, cmd *kvdpb.PlacementCommand) (*kvdpb.PlacementResult, error) {
	select {
	case <-e.hold:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if cmd.Epoch == 13 {
		return nil, status.Error(codes.Aborted, "unlucky")
	}
	return &kvdpb.PlacementResult{Version: cmd.Epoch}, nil
}

// pair is two members, 1 and 2, whose frames arrive unless the way is cut.
func pair(t *testing.T) (one, two *calls, impl *echo, cut func(error)) {
	t.Helper()
	var broken error
	impl = &echo{hold: make(chan struct{})}
	one = newCalls(func(_ uint64, frame []byte) error {
		if broken != nil {
			return broken
		}
		return two.handle(1, append([]byte(nil), frame...))
	})
	two = newCalls(func(_ uint64, frame []byte) error { return one.handle(2, append([]byte(nil), frame...)) })
	two.serve(&kvdpb.Placement_ServiceDesc, impl)
	t.Cleanup(one.close)
	t.Cleanup(two.close)
	return one, two, impl, func(err error) { broken = err }
}

func TestCalls(t *testing.T) {
	one, _, impl, cut := pair(t)
	close(impl.hold)
	ctx := context.Background()
	client := kvdpb.NewPlacementClient(one.to(2))
	for epoch := range uint64(20) {
		res, err := client.Update(ctx, &kvdpb.PlacementCommand{Epoch: epoch})
		if epoch == 13 {
			require.Equal(t, codes.Aborted, status.Code(err))
			require.ErrorContains(t, err, "unlucky")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, epoch, res.Version)
	}
	err := one.to(2).Invoke(ctx, "/kvdpb.Placement/Nothing", &kvdpb.PlacementCommand{}, &kvdpb.PlacementResult{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	_, err = one.to(2).NewStream(ctx, nil, "")
	require.ErrorIs(t, err, errNoStreams)
	cut(errors.New("not connected"))
	_, err = client.Update(ctx, &kvdpb.PlacementCommand{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Empty(t, one.mu.waiting)
}

func TestCallsThatGetNoReply(t *testing.T) {
	one, two, impl, _ := pair(t)
	client := kvdpb.NewPlacementClient(one.to(2))
	errs := make(chan error, maxCalls+1)
	call := func(ctx context.Context) {
		go func() {
			_, err := client.Update(ctx, &kvdpb.PlacementCommand{})
			errs <- err
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	for range maxCalls {
		call(ctx)
	}
	require.Eventually(t, func() bool { return len(two.slots) == maxCalls }, time.Minute, time.Millisecond)
	_, err := client.Update(context.Background(), &kvdpb.PlacementCommand{})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "what is served at a time is bounded")
	cancel()
	for range maxCalls {
		require.Equal(t, codes.Canceled, status.Code(<-errs))
	}
	// Late replies find nobody.
	close(impl.hold)
	require.Eventually(t, func() bool { return len(two.slots) == 0 }, time.Minute, time.Millisecond)

	one, two, _, _ = pair(t)
	client = kvdpb.NewPlacementClient(one.to(2))
	call(context.Background())
	require.Eventually(t, func() bool { return len(two.slots) == 1 }, time.Minute, time.Millisecond)
	one.peerDown(3)
	require.Empty(t, errs)
	one.peerDown(2)
	require.Equal(t, codes.Unavailable, status.Code(<-errs))
	call(context.Background())
	require.Eventually(t, func() bool { return len(two.slots) == 2 }, time.Minute, time.Millisecond)
	one.cancel()
	require.Equal(t, codes.Unavailable, status.Code(<-errs))
}

func FuzzCallFrames(f *testing.F) {
	f.Add([]byte{frameCall, 1, 0})
	f.Add(append([]byte{frameCall, 1, 23}, "/kvdpb.Placement/Update"...))
	f.Add([]byte{frameCallReply, 1, 0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) == 0 {
			return
		}
		c := newCalls(func(uint64, []byte) error { return nil })
		defer c.close()
		hold := make(chan struct{})
		close(hold)
		c.serve(&kvdpb.Placement_ServiceDesc, &echo{hold: hold})
		_ = c.handle(1, frame)
	})
}
