package etcdfile

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// KeyValue is one version of a key: an mvccpb.KeyValue whose bytes alias what it
// was parsed from. Rows are many, so they are encoded by hand.
type KeyValue struct {
	Key, Value                  []byte
	Create, Mod, Version, Lease int64
}

// Fields of mvccpb.KeyValue.
const (
	fieldKey     = 1
	fieldCreate  = 2
	fieldMod     = 3
	fieldVersion = 4
	fieldValue   = 5
	fieldLease   = 6
)

// AppendKeyValue appends kv as an encoded mvccpb.KeyValue.
func AppendKeyValue(dst []byte, kv *KeyValue) []byte {
	if len(kv.Key) > 0 {
		dst = protowire.AppendTag(dst, fieldKey, protowire.BytesType)
		dst = protowire.AppendBytes(dst, kv.Key)
	}
	dst = appendNumber(dst, fieldCreate, kv.Create)
	dst = appendNumber(dst, fieldMod, kv.Mod)
	dst = appendNumber(dst, fieldVersion, kv.Version)
	if len(kv.Value) > 0 {
		dst = protowire.AppendTag(dst, fieldValue, protowire.BytesType)
		dst = protowire.AppendBytes(dst, kv.Value)
	}
	return appendNumber(dst, fieldLease, kv.Lease)
}

func appendNumber(dst []byte, field protowire.Number, n int64) []byte {
	if n == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, field, protowire.VarintType)
	return protowire.AppendVarint(dst, uint64(n))
}

// ParseKeyValue decodes an mvccpb.KeyValue. Unknown fields are skipped.
func ParseKeyValue(b []byte) (kv KeyValue, err error) {
	err = eachField(b, func(field protowire.Number, n uint64) {
		switch field {
		case fieldCreate:
			kv.Create = int64(n)
		case fieldMod:
			kv.Mod = int64(n)
		case fieldVersion:
			kv.Version = int64(n)
		case fieldLease:
			kv.Lease = int64(n)
		}
	}, func(field protowire.Number, b []byte) {
		switch field {
		case fieldKey:
			kv.Key = b
		case fieldValue:
			kv.Value = b
		}
	})
	return kv, err
}

// Lease is etcd's leasepb.Lease; times are in seconds.
type Lease struct {
	ID, TTL int64
	// Remaining is what was left at the last checkpoint; 0 where there was none.
	Remaining int64
}

func appendLease(dst []byte, l *Lease) []byte {
	dst = appendNumber(dst, 1, l.ID)
	dst = appendNumber(dst, 2, l.TTL)
	return appendNumber(dst, 3, l.Remaining)
}

func parseLease(b []byte) (l Lease, err error) {
	err = eachField(b, func(field protowire.Number, n uint64) {
		switch field {
		case 1:
			l.ID = int64(n)
		case 2:
			l.TTL = int64(n)
		case 3:
			l.Remaining = int64(n)
		}
	}, func(protowire.Number, []byte) {})
	return l, err
}

// eachField calls number for each field that is a varint, and bytes for each that
// is bytes.
func eachField(b []byte, number func(field protowire.Number, n uint64), bytes func(field protowire.Number, b []byte)) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: encoded message: %w", ErrCorrupt, protowire.ParseError(n))
		}
		b = b[n:]
		switch kind {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return fmt.Errorf("%w: encoded message: %w", ErrCorrupt, protowire.ParseError(n))
			}
			number(field, v)
			b = b[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("%w: encoded message: %w", ErrCorrupt, protowire.ParseError(n))
			}
			bytes(field, v)
			b = b[n:]
		default:
			n := protowire.ConsumeFieldValue(field, kind, b)
			if n < 0 {
				return fmt.Errorf("%w: encoded message: %w", ErrCorrupt, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	return nil
}
