package placement

import (
	"math"
	"testing"
	"time"

	"github.com/kvd-io/kvd/shard/ownership"
	"github.com/stretchr/testify/require"
)

var frameSamples = [][]byte{
	appendAsk(nil, &ask{lane: mainLane, incarnation: math.MaxUint64, number: 7, count: 3}),
	appendAsk(nil, &ask{lane: probeLane, incarnation: 1, number: 1}),
	appendAsk(nil, &ask{lane: mainLane, incarnation: 1, number: 7, count: 3, auth: 12}),
	appendAnswer(nil, &answer{incarnation: 5, number: 9, first: 2}),
	appendAnswer(nil, &answer{verdict: refused, incarnation: 5, number: 9, first: 2, stamp: ownership.Stamp{AuthVersion: 9}}),
	appendAnswer(nil, &answer{lane: probeLane, verdict: answered, incarnation: 5, number: 9, first: math.MaxInt64,
		stamp: ownership.Stamp{SeqEpoch: 3, Reading: time.Hour, MapVersion: 8, AuthVersion: 9, CompactRevision: 10}}),
	appendAnswer(nil, &answer{verdict: notServing, incarnation: 5, number: 9, stamp: ownership.Stamp{SeqEpoch: 3}}),
	appendAnswer(nil, &answer{verdict: notSequencer, incarnation: 5, number: 9, stamp: ownership.Stamp{SeqEpoch: 3}, hint: 4}),
	appendLeave(nil, leave{stage: drained, incarnation: 6}),
	appendTake(nil, take{epoch: 300}),
}

func TestFramesRefuseGarbage(t *testing.T) {
	for _, f := range frameSamples {
		require.NoError(t, decodeAny(t, f))
		for i := range f {
			require.ErrorIs(t, decodeAny(t, f[:i]), errFrame, "%x cut at %d", f, i)
		}
		require.ErrorIs(t, decodeAny(t, append(f[:len(f):len(f)], 0)), errFrame)
	}
	for _, bad := range [][]byte{
		nil, {0x05}, {frameAsk, byte(lanes), 1, 1, 1}, {frameAsk, byte(probeLane), 1, 1, 1},
		appendAsk(nil, &ask{count: maxCount + 1}),
		{frameAnswer, 0, byte(verdicts), 1, 1, 1}, {frameLeave, byte(leaveStages), 1},
		appendAnswer(nil, &answer{first: 1}), appendAnswer(nil, &answer{first: -1}),
	} {
		require.ErrorIs(t, decodeAny(t, bad), errFrame, "%x", bad)
	}
}

// decodeAny decodes a frame and checks that it is written back as it came.
func decodeAny(t *testing.T, f []byte) error {
	if len(f) == 0 {
		return errFrame
	}
	var back []byte
	switch f[0] {
	case frameAsk:
		a, err := decodeAsk(f)
		if err != nil {
			return err
		}
		back = appendAsk(nil, &a)
	case frameAnswer:
		a, err := decodeAnswer(f)
		if err != nil {
			return err
		}
		back = appendAnswer(nil, &a)
	case frameLeave:
		l, err := decodeLeave(f)
		if err != nil {
			return err
		}
		back = appendLeave(nil, l)
	case frameTake:
		k, err := decodeTake(f)
		if err != nil {
			return err
		}
		back = appendTake(nil, k)
	default:
		return errFrame
	}
	// Numbers may come in a longer form than they are written in.
	require.LessOrEqual(t, len(back), len(f))
	if len(back) == len(f) {
		require.Equal(t, f, back)
	}
	return nil
}

func FuzzFrame(f *testing.F) {
	for _, s := range frameSamples {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) { _ = decodeAny(t, b) })
}
