// Package history records what clients of a cluster asked and were told, and decides whether one etcd could have told it.
//
// It owns the operations and watches of a recorded run ([Recorder], [Operation], [Watch]), a model of the whole state of etcd ([State], [State.Apply]), and the
// two judgements over them: [Check] for requests, [Validators] for watches. It starts no process and injects no fault: that is tests/chaos.
//
// # How requests are judged
//
// Deciding linearizability is hard when the order has to be guessed. Here it need not be: etcd tells the revision of every write and of every read, so a
// store that keeps its promise hands out the only order in which its history can be explained. [Check] therefore goes by revision:
//
//  1. The [Log] holds what watches of the whole key space saw: for each revision its events. Members that disagree about it fail at once.
//  2. The log is replayed into one [State] per revision. Each answered write must be what its request does to the state before its revision: the same events and the same
//     answer. Each answered read must be the state at the revision that it names. Serializable reads and reads of old revisions too: they are exact, if not recent.
//  3. Every revision of the log belongs to exactly one write: an answered one, or one whose fate was unknown to its client (found by its unique values, or by matching what it
//     would have done). What was refused happened never. So a lost, repeated or invented write has no place to hide.
//  4. The order by revision must respect real time: what was asked after something else was answered lies behind it. Writes of unknown fate have a call, but no return.
//  5. Porcupine is asked for a second opinion over the same history, without the log: the model starts empty and executes the requests itself. Writes of unknown fate are given the revision
//     that step 3 found, as etcd's own robustness tests do, so that the search hardly ever has to go back.
//
// # How watches are judged
//
// Each promise of etcd's watch is a validator of its own, so that a failure has a name: filter, ordered, unique, atomic, reliable, resumable, bookmarkable, prev_kv, is-create.
// validators_test.go holds a planted bug for each, which it alone must find.
//
// # What it must never do
//
// Judge a history as good because something could not be decided: what porcupine cannot finish, and what the log does not cover, is an error.
package history
