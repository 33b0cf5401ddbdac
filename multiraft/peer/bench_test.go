package peer

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkRoundTrip measures a frame there and one back, and a stream of them.
func BenchmarkRoundTrip(b *testing.B) {
	n := newTestNet(b)
	a, z := n.member(1, nil), n.member(2, nil)
	back := make(chan struct{}, 1<<16)
	z.Handle(ChannelRequest, func(_ uint64, f []byte) {
		if err := z.Send(1, ChannelRequest, f); err != nil {
			b.Error(err)
		}
	})
	a.Handle(ChannelRequest, func(uint64, []byte) { back <- struct{}{} })
	require.NoError(b, a.Start())
	require.NoError(b, z.Start())
	connect(b, a, z, ChannelRequest)
	connect(b, z, a, ChannelRequest)
	frame := make([]byte, 200)
	for _, depth := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(depth), func(b *testing.B) {
			b.ReportAllocs()
			flying := 0
			for range b.N {
				if flying == depth {
					<-back
					flying--
				}
				if err := a.Send(2, ChannelRequest, frame); err != nil {
					b.Fatal(err)
				}
				flying++
			}
			for range flying {
				<-back
			}
		})
	}
}
