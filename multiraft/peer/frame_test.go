package peer

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFramesSurviveAnyCutting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 3*readBuffer), 0, 8).Draw(t, "payloads")
		var stream []byte
		for _, p := range payloads {
			stream = appendFrame(stream, frameData, p)
		}
		var r io.Reader = bytes.NewReader(stream)
		switch rapid.IntRange(0, 2).Draw(t, "cut") {
		case 1:
			r = iotest.HalfReader(r)
		case 2:
			r = iotest.DataErrReader(r)
		}
		fr := newFrameReader(r, MaxFrame)
		for i, want := range payloads {
			kind, got, err := fr.next()
			if err != nil || kind != frameData || !bytes.Equal(got, want) {
				t.Fatalf("frame %d: kind %d, %d bytes, %v; want %d bytes", i, kind, len(got), err, len(want))
			}
		}
		if _, _, err := fr.next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func TestACutFrameIsNotACleanEnd(t *testing.T) {
	full := appendFrame(nil, frameData, []byte("payload"))
	for n := 1; n < len(full); n++ {
		_, _, err := newFrameReader(bytes.NewReader(full[:n]), MaxFrame).next()
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
	}
}

func TestALengthAloneReservesNoMemory(t *testing.T) {
	b := []byte{0x04, 0, 0, 0, 0, 0, 0, 0}
	fr := newFrameReader(bytes.NewReader(b), MaxFrame)
	_, _, err := fr.next()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.LessOrEqual(t, len(fr.buf), readBuffer)
}

func FuzzFrames(f *testing.F) {
	f.Add(appendPing(appendFrame(nil, frameData, []byte("payload")), framePing, 7))
	f.Add([]byte{0xff, 0, 0, 0})
	f.Add(append(appendFrame(nil, frameData, nil), 0x0f, 0xff, 0xff, 0xff, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b), 1<<16)
		var again []byte
		for {
			kind, payload, err := fr.next()
			if err != nil {
				break
			}
			again = appendFrame(again, kind, payload)
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("read %x from %x", again, b)
		}
	})
}

func FuzzHandshake(f *testing.F) {
	f.Add(appendHello(nil, hello{version: 1, channel: ChannelRequest, cluster: 2, from: 3, to: 4, incarnation: 5})[magicLen:])
	f.Add(appendReply(nil, reply{version: 1, status: 2, member: 3, incarnation: 4, reason: "no"}))
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := readHello(bytes.NewReader(b)); err == nil {
			again, err := readHello(bytes.NewReader(appendHello(nil, h)[magicLen:]))
			if err != nil || again != h {
				t.Fatalf("%+v became %+v, %v", h, again, err)
			}
		} else if !errors.Is(err, errHandshake) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("hello: %v", err)
		}
		if r, err := readReply(bytes.NewReader(b)); err == nil {
			again, err := readReply(bytes.NewReader(appendReply(nil, r)))
			if err != nil || again != r {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
	})
}
