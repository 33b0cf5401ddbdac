package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A dialler opens with
//
//	magic[8] length[2] version[2] channel[1] zero[1] cluster[8] from[8] to[8] incarnation[8] ...
//
// and the acceptor answers with
//
//	magic[8] version[2] status[1] zero[1] member[8] incarnation[8] length[2] reason[length]
//
// All integers are big endian. length counts what follows it; a longer hello of a later version is read and its rest ignored.
const (
	protocolVersion = 1

	magicLen     = 8
	helloBody    = 36
	maxHelloBody = 512
	replyHeader  = magicLen + 22
	maxReason    = 1024
)

var (
	helloMagic = [magicLen]byte{'K', 'V', 'D', 'm', 'e', 's', 'h', 0x01}
	replyMagic = [magicLen]byte{'K', 'V', 'D', 'm', 'e', 's', 'h', 0x02}
)

// Refusal codes of a handshake.
const (
	statusOK uint8 = iota
	statusVersion
	statusCluster
	statusTarget
	statusNotAllowed
	statusNotReady
	statusProtocol
	statusRemoved
	statusBegan
)

type hello struct {
	version     uint16
	channel     Channel
	cluster     uint64
	from, to    uint64
	incarnation uint64
}

type reply struct {
	version     uint16
	status      uint8
	member      uint64
	incarnation uint64
	reason      string
}

// RefusedError is the answer of a member that does not accept a connection.
type RefusedError struct {
	// Member is who answered; it differs from the dialled member when a peer URL leads elsewhere.
	Member uint64
	// Reason is the other side's text.
	Reason string

	status uint8
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("member %016x refused the connection: %s", e.Member, e.Reason)
}

// ClusterMismatch tells whether the other side belongs to another cluster.
func (e *RefusedError) ClusterMismatch() bool { return e.status == statusCluster }

// NotAllowed tells whether the other side does not take this member for one of the cluster's.
func (e *RefusedError) NotAllowed() bool { return e.status == statusNotAllowed }

// Removed tells whether the other side says that this member was removed from the
// cluster for ever.
func (e *RefusedError) Removed() bool { return e.status == statusRemoved }

// Began tells, of a Probe, that the other side knows the member as one that has taken part already.
func (e *RefusedError) Began() bool { return e.status == statusBegan }

var errHandshake = errors.New("malformed handshake")

func appendHello(dst []byte, h hello) []byte {
	dst = append(dst, helloMagic[:]...)
	dst = binary.BigEndian.AppendUint16(dst, helloBody)
	dst = binary.BigEndian.AppendUint16(dst, h.version)
	dst = append(dst, byte(h.channel), 0)
	dst = binary.BigEndian.AppendUint64(dst, h.cluster)
	dst = binary.BigEndian.AppendUint64(dst, h.from)
	dst = binary.BigEndian.AppendUint64(dst, h.to)
	return binary.BigEndian.AppendUint64(dst, h.incarnation)
}

// readHello reads what follows the magic.
func readHello(r io.Reader) (hello, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return hello{}, fmt.Errorf("reading the handshake: %w", err)
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n < helloBody || n > maxHelloBody {
		return hello{}, fmt.Errorf("%w: length %d", errHandshake, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, fmt.Errorf("reading the handshake: %w", err)
	}
	h := hello{
		version:     binary.BigEndian.Uint16(b),
		channel:     Channel(b[2]),
		cluster:     binary.BigEndian.Uint64(b[4:]),
		from:        binary.BigEndian.Uint64(b[12:]),
		to:          binary.BigEndian.Uint64(b[20:]),
		incarnation: binary.BigEndian.Uint64(b[28:]),
	}
	return h, nil
}

func appendReply(dst []byte, r reply) []byte {
	reason := r.reason
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	dst = append(dst, replyMagic[:]...)
	dst = binary.BigEndian.AppendUint16(dst, r.version)
	dst = append(dst, r.status, 0)
	dst = binary.BigEndian.AppendUint64(dst, r.member)
	dst = binary.BigEndian.AppendUint64(dst, r.incarnation)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(reason)))
	return append(dst, reason...)
}

func readReply(rd io.Reader) (reply, error) {
	var b [replyHeader]byte
	if _, err := io.ReadFull(rd, b[:]); err != nil {
		return reply{}, fmt.Errorf("reading the answer to the handshake: %w", err)
	}
	if [magicLen]byte(b[:magicLen]) != replyMagic {
		return reply{}, fmt.Errorf("%w: the other side is not a kvd peer port", errHandshake)
	}
	r := reply{
		version:     binary.BigEndian.Uint16(b[8:]),
		status:      b[10],
		member:      binary.BigEndian.Uint64(b[12:]),
		incarnation: binary.BigEndian.Uint64(b[20:]),
	}
	n := int(binary.BigEndian.Uint16(b[28:]))
	if n > maxReason {
		return reply{}, fmt.Errorf("%w: reason of %d bytes", errHandshake, n)
	}
	if n > 0 {
		reason := make([]byte, n)
		if _, err := io.ReadFull(rd, reason); err != nil {
			return reply{}, fmt.Errorf("reading the answer to the handshake: %w", err)
		}
		r.reason = string(reason)
	}
	return r, nil
}
