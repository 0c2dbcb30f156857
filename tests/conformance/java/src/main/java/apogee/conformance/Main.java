package apogee.conformance;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;

/** Runs every scenario against the server named by the environment, and counts. */
public final class Main {
    /** Scenarios at once: most of them only wait, but each one brings network threads of its own. */
    private static final int AT_ONCE = 8;

    private static final AtomicInteger PASSED = new AtomicInteger();
    private static final AtomicInteger FAILED = new AtomicInteger();
    private static PrintStream out;

    private Main() {
    }

    /** Without arguments: the whole list. With "victim": the consumer that gets killed. */
    public static void main(String[] args) throws Exception {
        out = new PrintStream(System.out, true, StandardCharsets.UTF_8.name());
        if (args.length > 0 && args[0].equals("victim")) {
            Victim.run(args[1], args[2], out);
            return;
        }
        Server server = new Server();
        List<Scenario> together = new ArrayList<>();
        List<Scenario> alone = new ArrayList<>();
        SendScenarios.list(together);
        ConsumeScenarios.list(together);
        RetryScenarios.list(together);
        PullScenarios.list(together);
        GroupScenarios.list(together);
        TopicScenarios.list(together);
        MetricScenarios.list(together);
        TransactionScenarios.list(together);
        RequestScenarios.list(together);
        addPop(together, alone);
        TimedScenarios.list(alone);
        BatchScenarios.list(together, alone);
        ErrorScenarios.list(together, alone);
        OutageScenarios.list(alone);

        String only = System.getenv("ONLY");
        if (only != null) {
            together.removeIf(s -> !s.name.matches(only));
            alone.removeIf(s -> !s.name.matches(only));
        }
        runAll(server, together, AT_ONCE);
        runAll(server, alone, 1);
        out.println(server.label + ": " + PASSED + " passed, " + FAILED + " failed");
        // Client threads that do not end must not keep the process: the verdict is out already.
        Runtime.getRuntime().halt(FAILED.get() == 0 ? 0 : 1);
    }

    /** Clients of 4.x know no pop: the class is left out there. */
    private static void addPop(List<Scenario> together, List<Scenario> alone) throws Exception {
        try {
            Class.forName("apogee.conformance.PopScenarios")
                .getDeclaredMethod("list", List.class, List.class).invoke(null, together, alone);
        } catch (ClassNotFoundException e) {
            // a client of 4.x
        }
    }

    private static void runAll(Server server, List<Scenario> list, int atOnce) throws Exception {
        ExecutorService turns = Executors.newFixedThreadPool(atOnce);
        List<Future<?>> waiting = new ArrayList<>();
        for (Scenario s : list) {
            waiting.add(turns.submit(() -> runOne(server, s)));
        }
        for (Future<?> f : waiting) {
            f.get();
        }
        turns.shutdown();
    }

    private static void runOne(Server server, Scenario s) {
        long begin = System.nanoTime();
        Case c = new Case(server, s.name);
        ExecutorService thread = Executors.newSingleThreadExecutor();
        String failure = null;
        try {
            Future<?> body = thread.submit((Callable<Void>) () -> {
                s.body.run(c);
                return null;
            });
            body.get(s.seconds, TimeUnit.SECONDS);
        } catch (TimeoutException e) {
            failure = "no end within " + s.seconds + " s";
        } catch (Throwable e) {
            failure = reason(e.getCause() == null ? e : e.getCause());
        }
        long ms = (System.nanoTime() - begin) / 1_000_000;
        thread.shutdownNow();
        if (failure == null) {
            PASSED.incrementAndGet();
            out.println("case " + server.label + " " + s.name + " ok " + ms);
        } else {
            FAILED.incrementAndGet();
            out.println("case " + server.label + " " + s.name + " FAILED " + failure);
        }
        c.close();
    }

    private static String reason(Throwable e) {
        StackTraceElement at = null;
        for (StackTraceElement t : e.getStackTrace()) {
            if (t.getClassName().startsWith("apogee.") && !t.getClassName().endsWith(".Check")) {
                at = t;
                break;
            }
        }
        String text = (e instanceof Check.Wrong ? e.getMessage() : e.toString()).replaceAll("\\s+", " ");
        if (text.length() > 300) {
            text = text.substring(0, 300);
        }
        return text + (at == null ? "" : " (" + at.getFileName() + ":" + at.getLineNumber() + ")");
    }
}
