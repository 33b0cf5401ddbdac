package placement

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// Machine is the on-disk state machine of one placement replica. Its methods are
// called as raft calls an on-disk state machine: one at a time, except that
// SaveSnapshot runs beside the others.
type Machine struct {
	open func() (Storage, error)
	// publish is told of every new view, after it has been written. It must not
	// block, nor call raft.
	publish func(*View)

	storage Storage
	state   *State
	view    *View
	closed  bool
}

// NewMachine returns a machine that opens its storage when it is opened itself.
func NewMachine(open func() (Storage, error), publish func(*View)) *Machine {
	return &Machine{open: open, publish: publish}
}

// Open loads the state and returns the index up to which it is applied.
func (m *Machine) Open(<-chan struct{}) (uint64, error) {
	st, err := m.open()
	if err != nil {
		return 0, fmt.Errorf("open placement storage: %w", err)
	}
	state, err := loadState(st)
	if err != nil {
		return 0, errors.Join(err, st.Close())
	}
	m.storage, m.state = st, state
	m.show(st.AppliedIndex())
	return st.AppliedIndex(), nil
}

// show publishes the present state.
func (m *Machine) show(index uint64) {
	m.view = m.state.View(m.view, index)
	m.publish(m.view)
}

// Apply applies entries in order and fills in their results. An error means that
// the member must stop.
func (m *Machine) Apply(entries []Entry) error {
	if m.closed {
		return errors.New("placement machine is closed")
	}
	if len(entries) == 0 {
		return nil
	}
	for i := range entries {
		e := &entries[i]
		res := m.applyOne(e.Cmd)
		data, err := proto.Marshal(res)
		if err != nil {
			return fmt.Errorf("encode result of placement entry %d: %w", e.Index, err)
		}
		e.Result, e.Data = uint64(res.Rejection), data
		if err := assertState(m.state); err != nil {
			return fmt.Errorf("placement entry %d broke an invariant: %w", e.Index, err)
		}
	}
	index := entries[len(entries)-1].Index
	changes, err := m.state.takeChanges()
	if err != nil {
		return err
	}
	if err := m.storage.Write(index, changes); err != nil {
		return fmt.Errorf("write placement records up to entry %d: %w", index, err)
	}
	m.show(index)
	return nil
}

// applyOne decodes and applies one command. Bytes that are no command are
// rejected on all replicas alike: they must not stop each of them at each replay.
func (m *Machine) applyOne(cmd []byte) *kvdpb.PlacementResult {
	c := &kvdpb.PlacementCommand{}
	if err := proto.Unmarshal(cmd, c); err != nil {
		return m.state.Apply(&kvdpb.PlacementCommand{})
	}
	return m.state.Apply(c)
}

// Sync makes everything applied durable.
func (m *Machine) Sync() error { return m.storage.Sync() }

// Close closes the storage. Closing twice does nothing.
func (m *Machine) Close() error {
	if m.storage == nil || m.closed {
		return nil
	}
	m.closed = true
	return m.storage.Close()
}

// snapshotLimit bounds the state that a snapshot may carry: a hundred thousand
// shards with room to spare.
const snapshotLimit = 256 << 20

// snapshotMagic begins a snapshot: magic, applied index, length, state, checksum
// of all before.
const snapshotMagic = "kvdplc01"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// PrepareSnapshot captures the state as encoded bytes. The state is small: it
// holds no keys.
func (m *Machine) PrepareSnapshot() (any, error) {
	state, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.state.Proto())
	if err != nil {
		return nil, fmt.Errorf("encode placement state: %w", err)
	}
	if len(state) > snapshotLimit {
		return nil, fmt.Errorf("placement state of %d bytes is too large for a snapshot", len(state))
	}
	buf := make([]byte, 0, len(state)+len(snapshotMagic)+20)
	buf = append(buf, snapshotMagic...)
	buf = binary.BigEndian.AppendUint64(buf, m.view.Index)
	buf = binary.BigEndian.AppendUint64(buf, uint64(len(state)))
	buf = append(buf, state...)
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli)), nil
}

// SaveSnapshot writes what PrepareSnapshot captured.
func (m *Machine) SaveSnapshot(captured any, w io.Writer, _ <-chan struct{}) error {
	snapshot, ok := captured.([]byte)
	if !ok {
		return fmt.Errorf("placement snapshot is a %T", captured)
	}
	if _, err := w.Write(snapshot); err != nil {
		return fmt.Errorf("write placement snapshot: %w", err)
	}
	return nil
}

// RecoverFromSnapshot replaces the whole state by that of a snapshot, durably.
func (m *Machine) RecoverFromSnapshot(r io.Reader, _ <-chan struct{}) error {
	index, state, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("read placement snapshot: %w", err)
	}
	if index < m.storage.AppliedIndex() {
		return fmt.Errorf("placement snapshot of entry %d is behind entry %d", index, m.storage.AppliedIndex())
	}
	var gone []Record
	err = m.storage.Scan(func(name, _ []byte) error {
		gone = append(gone, Record{Name: append([]byte(nil), name...)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list placement records: %w", err)
	}
	state.markAll()
	changes, err := state.takeChanges()
	if err != nil {
		return err
	}
	if err := m.storage.Write(index, append(gone, changes...)); err != nil {
		return fmt.Errorf("write placement snapshot: %w", err)
	}
	if err := m.storage.Sync(); err != nil {
		return fmt.Errorf("sync placement snapshot: %w", err)
	}
	m.state = state
	m.view = nil
	m.show(index)
	return nil
}

func readSnapshot(r io.Reader) (index uint64, state *State, err error) {
	sum := crc32.New(castagnoli)
	in := io.TeeReader(r, sum)
	var head [len(snapshotMagic) + 16]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, fmt.Errorf("header: %w", err)
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return 0, nil, errors.New("not a placement snapshot")
	}
	index = binary.BigEndian.Uint64(head[len(snapshotMagic):])
	size := binary.BigEndian.Uint64(head[len(snapshotMagic)+8:])
	if size > snapshotLimit {
		return 0, nil, fmt.Errorf("state of %d bytes is too large", size)
	}
	// What the header says is not believed: memory grows with what arrives.
	body, err := io.ReadAll(io.LimitReader(in, int64(size)))
	if err != nil || uint64(len(body)) != size {
		return 0, nil, fmt.Errorf("state: %d of %d bytes: %w", len(body), size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	want := sum.Sum32()
	var tail [4]byte
	if _, err := io.ReadFull(r, tail[:]); err != nil {
		return 0, nil, fmt.Errorf("checksum: %w", err)
	}
	if binary.BigEndian.Uint32(tail[:]) != want {
		return 0, nil, errors.New("checksum mismatch")
	}
	p := &kvdpb.PlacementState{}
	if err := proto.Unmarshal(body, p); err != nil {
		return 0, nil, fmt.Errorf("decode: %w", err)
	}
	state, err = StateFromProto(p)
	return index, state, err
}
