package apogee.conformance;

import java.util.Objects;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;

/** Expectations. */
final class Check {
    /** Something was not as expected. */
    static final class Wrong extends RuntimeException {
        private static final long serialVersionUID = 1;

        Wrong(String text) {
            super(text);
        }
    }

    /** Code that may throw. */
    interface Action {
        void run() throws Exception;
    }

    private Check() {
    }

    static void that(boolean condition, String text) {
        if (!condition) {
            throw new Wrong(text);
        }
    }

    static void equal(String what, Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) {
            throw new Wrong(what + ": expected " + expected + ", got " + actual);
        }
    }

    /** The action must fail with this answer code, thrown by the client or passed on from the broker. */
    static void code(String what, int code, Action action) throws Exception {
        int got;
        try {
            action.run();
        } catch (MQBrokerException e) {
            got = e.getResponseCode();
            if (got != code) {
                throw new Wrong(what + ": expected code " + code + ", got " + e);
            }
            return;
        } catch (MQClientException e) {
            got = e.getResponseCode();
            if (got != code) {
                throw new Wrong(what + ": expected code " + code + ", got " + e);
            }
            return;
        }
        throw new Wrong(what + ": expected code " + code + ", but it worked");
    }

    /** The action must fail in the client, before anything is sent. */
    static void refusedByClient(String what, Action action) throws Exception {
        try {
            action.run();
        } catch (MQClientException e) {
            return;
        }
        throw new Wrong(what + " was not refused");
    }
}
