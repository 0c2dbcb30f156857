package apogee.conformance;

import java.util.concurrent.Callable;

/** Waiting for states that can only be asked for. */
final class Wait {
    private Wait() {
    }

    static void until(String what, long ms, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + ms * 1_000_000;
        while (!condition.call()) {
            if (System.nanoTime() > end) {
                throw new Check.Wrong("not within " + ms + " ms: " + what);
            }
            Thread.sleep(30);
        }
    }
}
