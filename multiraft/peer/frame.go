package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A frame is length[4] checksum[4] payload[length]. The upper four bits of the length word are the kind; the checksum is
// CRC-32C of the payload, because TCP's own is too weak for what is written to every replica's log.
const (
	frameHeader = 8
	kindShift   = 28
	lengthMask  = 1<<kindShift - 1

	frameData uint32 = 0
	framePing uint32 = 1
	framePong uint32 = 2

	pingPayload = 8

	readBuffer = 64 << 10
	// keepBuffer is the largest buffer that outlives the frame it was made for.
	keepBuffer = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFrame = errors.New("malformed frame")

func putFrameHeader(dst []byte, kind uint32, payload []byte) {
	binary.BigEndian.PutUint32(dst, kind<<kindShift|uint32(len(payload)))
	binary.BigEndian.PutUint32(dst[4:], crc32.Checksum(payload, castagnoli))
}

func appendFrame(dst []byte, kind uint32, payload []byte) []byte {
	n := len(dst)
	dst = slices.Grow(dst, frameHeader+len(payload))[:n+frameHeader]
	putFrameHeader(dst[n:], kind, payload)
	return append(dst, payload...)
}

func appendPing(dst []byte, kind uint32, sent int64) []byte {
	var b [pingPayload]byte
	binary.BigEndian.PutUint64(b[:], uint64(sent))
	return appendFrame(dst, kind, b[:])
}

// frameReader cuts a byte stream into frames. It reads as much as there is into one reused buffer.
type frameReader struct {
	r          io.Reader
	buf        []byte
	start, end int
	// max is the largest payload that is accepted.
	max int
}

func newFrameReader(r io.Reader, limit int) *frameReader {
	return &frameReader{r: r, buf: make([]byte, readBuffer), max: limit}
}

// next returns the next frame. The payload is valid until the next call.
func (f *frameReader) next() (kind uint32, payload []byte, err error) {
	if err := f.fill(frameHeader); err != nil {
		return 0, nil, err
	}
	word := binary.BigEndian.Uint32(f.buf[f.start:])
	sum := binary.BigEndian.Uint32(f.buf[f.start+4:])
	kind, n := word>>kindShift, int(word&lengthMask)
	if kind > framePong {
		return 0, nil, fmt.Errorf("%w: kind %d", errFrame, kind)
	}
	if n > f.max {
		return 0, nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	if kind != frameData && n != pingPayload {
		return 0, nil, fmt.Errorf("%w: ping of %d bytes", errFrame, n)
	}
	if err := f.fill(frameHeader + n); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	payload = f.buf[f.start+frameHeader : f.start+frameHeader+n]
	f.start += frameHeader + n
	if got := crc32.Checksum(payload, castagnoli); got != sum {
		return 0, nil, fmt.Errorf("%w: checksum %08x, computed %08x", errFrame, sum, got)
	}
	return kind, payload, nil
}

// fill makes at least n bytes available from start.
func (f *frameReader) fill(n int) error {
	if f.end-f.start >= n {
		return nil
	}
	if f.start == f.end {
		f.start, f.end = 0, 0
		if len(f.buf) > keepBuffer && n <= readBuffer {
			f.buf = make([]byte, readBuffer)
		}
	}
	for f.end-f.start < n {
		if f.end == len(f.buf) || f.start+n > len(f.buf) {
			f.makeRoom(n)
		}
		got, err := f.r.Read(f.buf[f.end:])
		f.end += got
		if f.end-f.start >= n {
			return nil
		}
		if err != nil {
			if err == io.EOF && f.end > f.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// makeRoom moves what is buffered to the front. The buffer grows step by step with what really arrived, so that a
// length alone, which anybody can claim, does not reserve memory.
func (f *frameReader) makeRoom(n int) {
	have := f.end - f.start
	size := len(f.buf)
	if have >= size/2 && size < n {
		size = min(max(2*size, readBuffer), max(n, readBuffer))
	}
	if size == len(f.buf) {
		copy(f.buf, f.buf[f.start:f.end])
	} else {
		grown := make([]byte, size)
		copy(grown, f.buf[f.start:f.end])
		f.buf = grown
	}
	f.start, f.end = 0, have
}
