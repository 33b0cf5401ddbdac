/* Ownership of one shard: Claim, wait-out, Serving, Release, the read lease on the sequencer's clock, and the epoch check of writes (shard/ownership).
 *
 * The shard's log is one sequence of entries; each member applies it at its own pace, and may stop for as long as it likes between any two steps: that is
 * a paused process, a slow disk and a cut network in one. Whoever believes to own the shard may append: that raft would refuse some of it only makes the model stricter.
 *
 * Promised:  every accepted write was evaluated against the very state that it changes (no lost update), and a read answers with every
 *            write that was acknowledged before it began (no stale read), although nobody knows whether he still is the owner.
 *
 * Mutations: NO_WAIT_OUT, WAIT_NOT_INHERITED, NO_EPOCH_CHECK, CHECK_LAST_SEEN (the lease is checked against the last reading seen, not against one asked for after the look).
 */
#define MEMBERS 2
#define ENTRIES 6
#define TICKS   3 /* of the sequencer's clock */
#define D       1 /* length of a lease in ticks */

#define CLAIM   1
#define SERVING 2
#define WRITE   3
#define RELEASE 4

byte kind[ENTRIES], who[ENTRIES], epoch[ENTRIES], base[ENTRIES];
byte length = 0;

byte clock = 0;    /* the sequencer's */
byte acked = 0;    /* writes acknowledged to clients */
byte restarts = 0;

/* What a member has applied: a function of the prefix of the log. */
typedef view {
	byte applied, epoch, owner, value; /* owner counts from 1 */
	bool serving, released, wait; /* wait: the owner has to wait before it may log Serving */
}
view v[MEMBERS];

/* What a process knows of itself; gone when it restarts. */
typedef process_state {
	byte mine;       /* the epoch that a claim of this very incarnation gave it; 0: none */
	byte claimed;    /* index + 1 of that claim, until it is applied */
	byte since;      /* 1 + reading taken after the claim applied; 0: none yet */
	byte proposed;   /* index + 1 of a write in flight */
	bool logged;     /* Serving or Release was proposed in this epoch */
	bool left;       /* it has proposed Release and serves no more */
	bool leased;     /* its lease began at begin */
	byte begin;
}
process_state p[MEMBERS];

inline append(akind, awho, aepoch, abase) {
	kind[length] = akind; who[length] = awho; epoch[length] = aepoch; base[length] = abase;
	length++
}

/* apply changes m's view by its next entry, as every replica does alike. */
inline apply(m) {
	if
	:: kind[v[m].applied] == CLAIM ->
		if
		:: epoch[v[m].applied] == v[m].epoch -> /* the epoch that it names still stands */
			if
			:: v[m].owner == 0 -> v[m].wait = false
#ifdef WAIT_NOT_INHERITED
			:: v[m].owner == who[v[m].applied] + 1 || v[m].released -> v[m].wait = false
#else
			:: v[m].owner != 0 && v[m].serving && (v[m].released || v[m].owner == who[v[m].applied] + 1) -> v[m].wait = false
#endif
			:: else -> v[m].wait = true
			fi;
			v[m].epoch++;
			v[m].owner = who[v[m].applied] + 1;
			v[m].serving = false; v[m].released = false;
			if
			:: who[v[m].applied] == m && p[m].claimed == v[m].applied + 1 -> p[m].mine = v[m].epoch; p[m].since = 0; p[m].logged = false; p[m].left = false; p[m].leased = false; p[m].claimed = 0
			:: else
			fi
		:: else -> skip
		fi;
		if
		:: who[v[m].applied] == m && p[m].claimed == v[m].applied + 1 -> p[m].claimed = 0
		:: else
		fi
	:: kind[v[m].applied] == SERVING && epoch[v[m].applied] == v[m].epoch -> v[m].serving = true
	:: kind[v[m].applied] == RELEASE && epoch[v[m].applied] == v[m].epoch -> v[m].released = true
#ifdef NO_EPOCH_CHECK
	:: kind[v[m].applied] == WRITE ->
#else
	:: kind[v[m].applied] == WRITE && epoch[v[m].applied] == v[m].epoch ->
#endif
		assert(base[v[m].applied] == v[m].value); /* it was evaluated against this state */
		v[m].value++;
		if
		:: p[m].proposed == v[m].applied + 1 && acked < v[m].value -> acked = v[m].value
		:: else
		fi
	:: else -> skip /* rejected */
	fi;
	if
	:: p[m].proposed == v[m].applied + 1 -> p[m].proposed = 0
	:: else
	fi;
	v[m].applied++
}

#define OWNS(m)   (p[m].mine != 0 && v[m].epoch == p[m].mine && !v[m].released)
#ifdef NO_WAIT_OUT
#define WAITED(m) true
#else
#define WAITED(m) (!v[m].wait || clock >= p[m].since - 1 + D)
#endif
#define SERVES(m) (OWNS(m) && v[m].serving && !p[m].left)

proctype member(byte m) {
	byte need, looked, reading, readIndex;
end:
	do
	:: d_step { v[m].applied < length -> apply(m) }
	/* It finds itself raft leader but not owner. Two entries are kept free for what an owner needs to begin to serve. */
	:: d_step { length < ENTRIES - 2 && p[m].claimed == 0 && !OWNS(m) && v[m].applied == length ->
		append(CLAIM, m, v[m].epoch, 0); p[m].claimed = length }
	:: d_step { OWNS(m) && !v[m].serving && p[m].since == 0 -> p[m].since = clock + 1 }
	:: d_step { length < ENTRIES && OWNS(m) && !v[m].serving && !p[m].logged && p[m].since != 0 && WAITED(m) ->
		append(SERVING, m, p[m].mine, 0); p[m].logged = true }
	:: d_step { length < ENTRIES && SERVES(m) && p[m].proposed == 0 ->
		append(WRITE, m, p[m].mine, v[m].value); p[m].proposed = length }
	:: d_step { length < ENTRIES - 3 && SERVES(m) && p[m].proposed == 0 ->
		append(RELEASE, m, p[m].mine, 0); p[m].left = true; p[m].leased = false }
	/* It begins a lease: a reading, then a ReadIndex, then everything up to there is applied and its epoch still stands. */
	:: SERVES(m) && !p[m].leased ->
		d_step { reading = clock; readIndex = 0 }
		d_step { readIndex = length }
		if
		:: d_step { SERVES(m) && v[m].applied >= readIndex -> p[m].leased = true; p[m].begin = reading }
		:: d_step { !SERVES(m) || v[m].applied < readIndex -> skip }
		fi;
		d_step { need = 0; reading = 0; readIndex = 0 }
	/* It reads: it looks at its state, then asks for a reading, and answers if that lies inside of the lease. */
	:: SERVES(m) && p[m].leased ->
		d_step { need = acked }
#ifdef CHECK_LAST_SEEN
		d_step { reading = p[m].begin } /* the last one that it has seen */
#endif
		d_step { looked = v[m].value }
		if
#ifdef CHECK_LAST_SEEN
		:: d_step { p[m].leased && SERVES(m) && reading < p[m].begin + D -> assert(looked >= need) }
		:: d_step { !p[m].leased || !SERVES(m) || reading >= p[m].begin + D -> p[m].leased = false }
#else
		:: d_step { p[m].leased && SERVES(m) && clock < p[m].begin + D -> assert(looked >= need) }
		:: d_step { !p[m].leased || !SERVES(m) || clock >= p[m].begin + D -> p[m].leased = false }
#endif
		fi;
		d_step { need = 0; looked = 0; reading = 0 }
	/* The process ends and starts again: what it owned is void. Its entries in the log stay. */
	:: d_step { restarts < 1 -> restarts++; p[m].mine = 0; p[m].claimed = 0; p[m].since = 0; p[m].proposed = 0; p[m].logged = false; p[m].left = false; p[m].leased = false }
	od
}

active proctype time() {
end:
	do
	:: clock < TICKS -> clock++
	od
}

init {
	atomic { run member(0); run member(1) }
}
