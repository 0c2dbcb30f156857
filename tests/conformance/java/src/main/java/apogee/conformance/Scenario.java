package apogee.conformance;

/** One entry of the list. */
final class Scenario {
    /** What a scenario does; it throws when something is not as expected. */
    interface Body {
        void run(Case c) throws Exception;
    }

    final String name;
    final int seconds;
    final Body body;

    Scenario(String name, int seconds, Body body) {
        this.name = name;
        this.seconds = seconds;
        this.body = body;
    }
}
