// Package balance decides what a cluster does with its shards by itself, beside
// repair: which shards are split, by size or by load, which small cold neighbours are
// merged, and which owners are handed over. It is pure: no clock, goroutine, disk or socket. It is fed with
// observations and answers with decisions; somebody else gathers the ones and
// carries out the others.
//
// # What it promises
//
//   - It decides nothing about a shard that is busy with something else, and one
//     thing for a shard in one look.
//   - It begins no more in a minute than the settings say.
//   - It does not flap: what was split or handed over is left alone for a while; a
//     load must last before something is done about it, and so must the lack of one;
//     what was merged is far below the size at which it would be split; and owners are handed over
//     only where the receiver is better off afterwards than the giver was, by a
//     margin.
//   - It never splits inside one key: a boundary is a key, found by whoever owns the
//     shard, and a shard whose load is one key's is left alone.
//   - An ownership that somebody asked for is never taken away.
package balance
