/* The sequencer: revisions out of a window that the placement group's log knows of, by an owner that may be deposed without noticing (placement's sequencer).
 *
 * Two members may own the placement group, one after the other. The owner answers Allocate and Current from memory, inside of its lease only; a new one serves when the lease of the one before is
 * over, from the window's end on, or from the exact number that an orderly Release left.
 *
 * Promised:  no revision is handed out twice, each is larger than all that were handed out or reported before it was asked for, and Current is never behind
 *            what was handed out. An orderly hand-over skips nothing.
 *
 * Mutations: NO_LEASE (a deposed owner goes on answering), WINDOW_EARLY (a window is used before the log has it), RELEASE_FORGETS (Release does not stop what is answered before it is proposed).
 */
#define LAST 8 /* revisions of the model */

byte window = 2;      /* the window's end, as the log has it */
byte exact = 0;       /* next number that a Release left; 0: none */
byte turn = 0;        /* epochs so far */
byte owner = 255;     /* by the log */
bool leased = false;  /* the lease of the last owner is not over */
byte told = 0;        /* the largest number that was handed out or reported, to anybody */
byte crashes = 0;
bool lost = false;    /* its owner was killed */
bool skipped = false; /* an owner was lost, so that numbers may be skipped */

proctype member(byte m) {
	byte next, end_of_window, mine;
	bool serving, asks;
end:
	do
	/* It takes over: its Claim is in the log. */
	:: d_step { owner != m && turn < 3 && !serving -> turn++; mine = turn; owner = m; if :: exact == 0 && turn > 1 -> skipped = true :: else fi }
	/* It serves once the lease of the one before it is over. */
#ifdef NO_LEASE
	:: d_step { owner == m && mine == turn && !serving ->
#else
	:: d_step { owner == m && mine == turn && !serving && !leased ->
#endif
		if :: exact != 0 -> next = exact :: else -> next = window fi;
		if :: turn == 1 -> next = 1 :: else fi;
		/* Serving persists a window of its own. */
		window = next + 2; end_of_window = window; exact = 0;
		serving = true; leased = true }
	/* Allocate: check and increment under one lock. */
	:: d_step { serving && next < end_of_window && next < LAST ->
		assert(next > told); assert(skipped || next == told + 1);
		told = next; next++ }
	/* Current. */
	:: d_step { serving -> assert(next - 1 >= told) }
	/* It extends its window; the log refuses that of an owner that was deposed. */
#ifdef WINDOW_EARLY
	:: d_step { serving && end_of_window < next + 2 && end_of_window < LAST -> end_of_window++; asks = true }
	:: d_step { asks -> asks = false; if :: owner == m && mine == turn -> window = end_of_window :: else fi }
#else
	:: d_step { serving && owner == m && mine == turn && end_of_window < LAST && end_of_window < next + 2 -> window++; end_of_window = window }
#endif
	/* Its lease ends: it stops by itself, whether it knows of another owner or not. */
#ifdef NO_LEASE
	:: d_step { serving && owner != m && crashes > 0 -> serving = false }
#else
	:: d_step { serving -> serving = false; leased = false; skipped = true; if :: owner == m -> owner = 255 :: else fi }
#endif
	/* It is killed; its lease runs out later. */
	:: d_step { serving && crashes < 1 -> crashes++; lost = true; serving = false; mine = 0; skipped = true; if :: owner == m -> owner = 255 :: else fi }
	/* An orderly hand-over: it stops, and leaves the exact number. */
	:: d_step { serving && owner == m && mine == turn -> exact = next; owner = 255;
#ifndef RELEASE_FORGETS
		serving = false; leased = false
#endif
		}
	od
}

/* What a lost owner's lease still covered is over. */
proctype expiry() {
end:
	do
	:: d_step { lost -> leased = false; lost = false }
	od
}

init {
	atomic { run member(0); run member(1); run expiry() }
}
