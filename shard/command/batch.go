package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/kvd-io/kvd/mvcc"
)

// Version1 is the first byte of a batch, Version2 of one that holds commits of
// transactions over several shards. As protobuf tags they would be field 0,
// which does not exist.
const (
	Version1 = 0x01
	Version2 = 0x02
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed batch of writes")

// Batch is a decoded or yet to be encoded batch.
type Batch struct {
	// Epoch is the ownership that the writes were evaluated under, Seq the
	// place of the batch within it.
	Epoch, Seq uint64
	// Txns in increasing order of their revisions.
	Txns []Txn

	// effects backs the Effects of decoded transactions.
	effects []mvcc.Effect
	subs    []int64
}

// Txn is one write transaction.
type Txn struct {
	Revision int64
	Effects  []mvcc.Effect
	// Record makes the transaction the commit of one over several shards: an
	// encoded kvdpb.TxnRecord without its revision. Subs then number the effects
	// within the whole transaction; elsewhere they are numbered from 0.
	Record []byte
	Subs   []int64
}

// Sub is the number of effect i.
func (t *Txn) Sub(i int) int64 {
	if t.Subs != nil {
		return t.Subs[i]
	}
	return int64(i)
}

const (
	flagTombstone = 1 << iota
	flagCreate
	flagLease
	flagDetach

	flagsKnown = flagTombstone | flagCreate | flagLease | flagDetach
)

// Sizes from below, which bound what a decoder allocates.
const (
	minTxnSize    = 2
	minEffectSize = 3
)

// IsBatch tells a batch from other commands by its first byte.
func IsBatch(cmd []byte) bool {
	return len(cmd) > 0 && (cmd[0] == Version1 || cmd[0] == Version2)
}

// EffectSize bounds the bytes that an effect takes in a batch.
func EffectSize(e *mvcc.Effect) int {
	return 1 + 6*binary.MaxVarintLen64 + len(e.Key) + len(e.Value)
}

// TxnOverhead bounds the bytes that a transaction takes beside its effects.
const TxnOverhead = 2 * binary.MaxVarintLen64

// headerOverhead bounds the bytes of a batch beside its transactions.
const headerOverhead = 1 + 3*binary.MaxVarintLen64

// Encode returns the batch as a raft command.
func (b *Batch) Encode() []byte {
	size := headerOverhead
	version := byte(Version1)
	for i := range b.Txns {
		size += TxnOverhead
		if t := &b.Txns[i]; t.Record != nil {
			version = Version2
			size += binary.MaxVarintLen64 + len(t.Record) + binary.MaxVarintLen64*len(t.Subs)
		}
		for j := range b.Txns[i].Effects {
			size += EffectSize(&b.Txns[i].Effects[j])
		}
	}
	dst := make([]byte, 0, size)
	dst = append(dst, version)
	dst = binary.AppendUvarint(dst, b.Epoch)
	dst = binary.AppendUvarint(dst, b.Seq)
	dst = binary.AppendUvarint(dst, uint64(len(b.Txns)))
	last := int64(0)
	for i := range b.Txns {
		t := &b.Txns[i]
		dst = binary.AppendUvarint(dst, uint64(t.Revision-last))
		last = t.Revision
		dst = binary.AppendUvarint(dst, uint64(len(t.Effects)))
		if version == Version2 {
			dst = binary.AppendUvarint(dst, uint64(len(t.Record)))
			dst = append(dst, t.Record...)
		}
		for j := range t.Effects {
			dst = appendEffect(dst, &t.Effects[j])
			if t.Record != nil {
				dst = binary.AppendUvarint(dst, uint64(t.Sub(j)))
			}
		}
	}
	return dst
}

func appendEffect(dst []byte, e *mvcc.Effect) []byte {
	var flags byte
	if e.Tombstone {
		flags = flagTombstone
	} else {
		if e.Create != 0 {
			flags |= flagCreate
		}
		if e.Lease != 0 {
			flags |= flagLease
		}
	}
	if e.Detach != 0 {
		flags |= flagDetach
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(len(e.Key)))
	dst = append(dst, e.Key...)
	if flags&flagDetach != 0 {
		dst = binary.AppendUvarint(dst, uint64(e.Detach))
	}
	if e.Tombstone {
		return dst
	}
	if flags&flagCreate != 0 {
		dst = binary.AppendUvarint(dst, uint64(e.Create))
	}
	dst = binary.AppendUvarint(dst, uint64(e.Version))
	if flags&flagLease != 0 {
		dst = binary.AppendUvarint(dst, uint64(e.Lease))
	}
	dst = binary.AppendUvarint(dst, uint64(len(e.Value)))
	return append(dst, e.Value...)
}

// Decode parses cmd into b, whose slices are used again. Keys and values alias
// cmd. Revisions are positive and strictly increasing, keys are not empty.
func (b *Batch) Decode(cmd []byte) error {
	b.Txns, b.effects, b.subs = b.Txns[:0], b.effects[:0], b.subs[:0]
	if !IsBatch(cmd) {
		return fmt.Errorf("%w: unknown version", ErrMalformed)
	}
	commits := cmd[0] == Version2
	d := decoder{rest: cmd[1:]}
	b.Epoch = d.uvarint()
	b.Seq = d.uvarint()
	txns := d.count(minTxnSize)
	last := int64(0)
	for range txns {
		step := d.uvarint()
		if step == 0 || step > uint64(math.MaxInt64-last) {
			d.fail("revision out of order")
		}
		last += int64(step)
		n := d.count(minEffectSize)
		var record []byte
		if commits {
			if record = d.bytes(); len(record) == 0 {
				record = nil
			}
		}
		if d.err != nil {
			break
		}
		first := len(b.effects)
		for range n {
			b.effects = append(b.effects, d.effect())
			if record != nil {
				b.subs = append(b.subs, d.int64())
			}
		}
		// b.effects may still move: only the length is meant here.
		b.Txns = append(b.Txns, Txn{Revision: last, Effects: b.effects[first:], Record: record})
	}
	if d.err == nil && len(d.rest) > 0 {
		d.fail("bytes left over")
	}
	if d.err != nil {
		return d.err
	}
	at, sub := 0, 0
	for i := range b.Txns {
		t := &b.Txns[i]
		n := len(t.Effects)
		t.Effects = b.effects[at : at+n : at+n]
		at += n
		if t.Record != nil {
			t.Subs = b.subs[sub : sub+n : sub+n]
			sub += n
		}
	}
	return nil
}

// Forget drops what the batch points to and keeps its slices for use again.
func (b *Batch) Forget() {
	clear(b.Txns)
	clear(b.effects)
	b.Txns, b.effects, b.subs = b.Txns[:0], b.effects[:0], b.subs[:0]
}

// decoder takes a command apart; after the first error it yields zeros.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	d.rest = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("bad number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int64() int64 {
	v := d.uvarint()
	if v > math.MaxInt64 {
		d.fail("number too large")
		return 0
	}
	return int64(v)
}

// count reads how many elements of at least the given size follow.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.fail("more elements than bytes")
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail("longer than the command")
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) effect() (e mvcc.Effect) {
	if len(d.rest) == 0 {
		d.fail("effect is missing")
		return e
	}
	flags := d.rest[0]
	d.rest = d.rest[1:]
	if flags&^flagsKnown != 0 || (flags&flagTombstone != 0 && flags&^flagDetach != flagTombstone) {
		d.fail("unknown flags")
		return e
	}
	if e.Key = d.bytes(); len(e.Key) == 0 {
		d.fail("empty key")
		return e
	}
	if flags&flagDetach != 0 {
		if e.Detach = int64(d.uvarint()); e.Detach == 0 {
			d.fail("zero lease")
		}
	}
	if flags&flagTombstone != 0 {
		e.Tombstone = true
		return e
	}
	if flags&flagCreate != 0 {
		if e.Create = d.int64(); e.Create == 0 {
			d.fail("zero creation revision")
		}
	}
	e.Version = d.int64()
	if flags&flagLease != 0 {
		if e.Lease = int64(d.uvarint()); e.Lease == 0 {
			d.fail("zero lease")
		}
	}
	e.Value = d.bytes()
	return e
}
