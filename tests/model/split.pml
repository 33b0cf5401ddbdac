/* A split: the parent's owner stops serving the right half, logs Split, every member makes the child's seed from its own frozen span, and the child's group starts when a majority holds
 * seeds (shard/manager, DESIGN of splits in docs/architecture.md).
 *
 * The parent's log is one sequence; each member applies it at its own pace and may stop for as long as it likes. One member may lose its disk once, as a minority may.
 * The child is a group of its own: what it acknowledges needs a majority of members that run it.
 *
 * Promised:  a read of the right half, by parent or child, answers with every write that was acknowledged before it began; what the parent acknowledged survives
 *            into the child, whichever minority loses its disk.
 * Live:      a split that was logged ends with a child that serves (ltl live, with weak fairness).
 *
 * Mutations: CHILD_EMPTY, SERVES_UNTIL_APPLIED, SERVES_AGAIN (after a proposal of unknown outcome), STARTS_EARLY (before a majority holds seeds).
 */
#define MEMBERS 3
#define MAJORITY 2

bool logged = false;         /* Split is in the parent's log */
byte parent_writes = 0;      /* accepted by the parent's log in the right half, before Split */
byte acked = 0;              /* the value that clients were told of last */
bool stopped = false;        /* the parent's owner serves the right half no more */
bool proposed = false;
bool applied[MEMBERS];       /* Split, by each member's parent replica */
bool seed[MEMBERS];          /* the member holds the child's seed */
byte seeded[MEMBERS];        /* the value in its seed */
bool running[MEMBERS];       /* its child replica runs */
byte confirmed = 0;          /* seeds that placement knows of */
bool started = false;        /* placement lets the child's group start */
bool child_serves = false;
byte child_value = 0;        /* of the child's owner */
byte held = 0;               /* bits of the members that have what the child acknowledges */

proctype owner() {
	do
	:: d_step { !stopped && parent_writes < 2 && !logged -> parent_writes++; acked = parent_writes }
	/* A read by the parent's lease, which nothing ends as long as its owner takes itself for the owner. */
	:: d_step { !stopped -> assert(parent_writes >= acked) }
	:: d_step { !proposed ->
#ifndef SERVES_UNTIL_APPLIED
		stopped = true;
#endif
		proposed = true }
	/* Whether a proposal that was made is ever logged is up to the log. */
	:: proposed && !logged ->
		if
		:: logged = true
#ifdef SERVES_AGAIN
		/* The outcome is unknown; it was logged all the same. */
		:: d_step { logged = true; stopped = false }
#endif
		fi
	:: d_step { applied[0] -> stopped = true }; break
	od
}

proctype member(byte m) {
	/* Its parent replica applies Split: that only records the frozen span. */
	atomic { logged -> applied[m] = true };
	/* The seed is made from the frozen span. */
	d_step {
#ifdef CHILD_EMPTY
		seeded[m] = 0;
#else
		seeded[m] = parent_writes;
#endif
		seed[m] = true; confirmed++
	};
end:
	atomic { started && seed[m] -> running[m] = true }
}

/* One member loses its disk: its replicas are gone. */
proctype disaster() {
	byte m;
end:
	select (m : 0 .. 2);
	d_step { running[m] || seed[m] -> running[m] = false; seed[m] = false;
		held = held & ~(1 << m);
		assert(!child_serves || held != 0) /* what was acknowledged is still somewhere */ }
}

proctype placement() {
#ifdef STARTS_EARLY
	atomic { confirmed >= 1 -> started = true }
#else
	atomic { confirmed >= MAJORITY -> started = true }
#endif
}

#define RUNNING (running[0] + running[1] + running[2])

proctype child() {
	byte m, writes;
end:
#ifdef STARTS_EARLY
	/* Its members are those that have started, and a majority of them elects. */
	started && RUNNING >= 1;
#else
	/* The child's members are all of the parent's, and a majority of them elects. */
	started && RUNNING >= MAJORITY;
#endif
	if
	:: running[0] -> m = 0
	:: running[1] -> m = 1
	:: running[2] -> m = 2
	fi;
	d_step { child_value = seeded[m]; assert(child_value >= acked); child_serves = true; held = running[0] + 2 * running[1] + 4 * running[2] };
	do
	:: d_step { writes < 2 -> writes++; child_value++; acked = child_value }
	:: d_step { assert(child_value >= acked) }
	:: break
	od
}

init {
	atomic {
		run owner(); run placement(); run child();
		run member(0); run member(1); run member(2);
		run disaster()
	}
}

#ifdef LIVE
ltl live { [] (logged -> <> child_serves) }
#endif
