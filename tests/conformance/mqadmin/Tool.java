import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

import org.apache.rocketmq.tools.command.MQAdminStartup;
import org.apache.rocketmq.tools.command.SubCommand;

/** Runs mqadmin commands in this process, as its start script would, and judges what they print. */
final class Tool extends MQAdminStartup {
    /** What a command may take. Commands that never end by themselves get a shorter time. */
    private static final long PATIENCE_MS = 20_000;
    /** The tool itself always ends with status 0; a failure is a stack trace. */
    private static final Pattern TROUBLE = Pattern.compile("^\\s+at |CODE: \\d+",
        Pattern.MULTILINE);

    private final String label = System.getProperty("label", "mqadmin");
    private final boolean show = System.getenv("SHOW") != null;
    private final Pattern only = Pattern.compile(System.getenv().getOrDefault("ONLY", ".*"));
    private final PrintStream console = System.out;
    private final Set<String> executed = new TreeSet<>();
    private int passed;
    private int failed;

    /** Names of all commands that the tool has, in lower case. */
    static Set<String> registered() {
        SUB_COMMANDS.clear();
        MQAdminStartup.initCommand();
        Set<String> names = new TreeSet<>();
        for (SubCommand command : SUB_COMMANDS) {
            names.add(command.commandName().toLowerCase());
        }
        return names;
    }

    /** Runs a command; it has to end in time, without trouble, and print all of this. */
    String run(String name, String arguments, String... expected) {
        return judge(name, arguments, PATIENCE_MS, expected);
    }

    /** Runs a command that goes on until it is interrupted. */
    String runFor(long millis, String name, String arguments, String... expected) {
        return judge(name, arguments, millis, expected);
    }

    private String judge(String name, String arguments, long millis, String... expected) {
        if (!only.matcher(name).matches()) {
            return "";
        }
        executed.add(name.toLowerCase());
        long start = System.currentTimeMillis();
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        boolean ended = capture(name + " " + arguments, millis, out);
        String text = out.toString(StandardCharsets.UTF_8);
        if (show) {
            console.printf("---- %s %s%n%s%n", name, arguments, text);
        }
        report(name, problem(text, ended || millis < PATIENCE_MS, expected),
            System.currentTimeMillis() - start);
        return text;
    }

    private static String problem(String text, boolean ended, String... expected) {
        if (!ended) {
            return "does not end";
        }
        Matcher trouble = TROUBLE.matcher(text);
        if (trouble.find()) {
            int from = Math.max(0, trouble.start() - 60);
            return text.substring(from, Math.min(text.length(), from + 300)).replace('\n', ' ');
        }
        for (String pattern : expected) {
            if (!Pattern.compile(pattern, Pattern.MULTILINE).matcher(text).find()) {
                return "does not print " + pattern;
            }
        }
        return null;
    }

    /** Counts and prints one result. */
    void report(String name, String problem, long millis) {
        if (problem == null) {
            passed++;
            console.printf("case %s %s ok %d%n", label, name, millis);
        } else {
            failed++;
            console.printf("case %s %s FAILED %s%n", label, name, problem);
        }
        console.flush();
    }

    /** Runs a command in a thread of its own; false when its time is over. */
    private boolean capture(String line, long millis, ByteArrayOutputStream out) {
        PrintStream error = System.err;
        PrintStream into = new PrintStream(out, true, StandardCharsets.UTF_8);
        String[] words = line.trim().split(" +");
        // The tool makes its commands for one run each.
        SUB_COMMANDS.clear();
        Thread thread = new Thread(() -> MQAdminStartup.main0(words, null), "mqadmin");
        thread.setDaemon(true);
        System.setOut(into);
        System.setErr(into);
        try {
            thread.start();
            long end = System.currentTimeMillis() + millis;
            while (thread.isAlive() && System.currentTimeMillis() < end) {
                thread.join(50);
                wakeClosing(thread);
            }
            boolean ended = !thread.isAlive();
            if (!ended) {
                // What it says of the interruption is not looked at.
                PrintStream nowhere = new PrintStream(PrintStream.nullOutputStream());
                System.setOut(nowhere);
                System.setErr(nowhere);
                thread.interrupt();
                thread.join(PATIENCE_MS);
            }
            return ended;
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        } finally {
            System.setOut(console);
            System.setErr(error);
        }
    }

    /**
     * A client that ends often misses the wake-up of its event thread and waits for that thread's
     * next three-second poll. With some eighty clients that would be most of the run.
     */
    private static void wakeClosing(Thread thread) {
        for (StackTraceElement frame : thread.getStackTrace()) {
            if (frame.getClassName().endsWith(".ServiceThread")) {
                Thread.getAllStackTraces().keySet().stream()
                    .filter(other -> other.getName().startsWith("NettyEventExecutor"))
                    .forEach(Thread::interrupt);
                return;
            }
        }
    }

    /** Every command of the tool was run, or is among those that are left out on purpose. */
    void complete(Set<String> leftOut) {
        Set<String> forgotten = registered();
        forgotten.removeAll(executed);
        for (String name : leftOut) {
            forgotten.remove(name.toLowerCase());
        }
        if (only.matcher("every-command").matches()) {
            report("every-command", forgotten.isEmpty() ? null : "never run: " + forgotten, 0);
        }
    }

    /** Every command has a row in the documentation. */
    void documented(Path file) throws IOException {
        String text = Files.readString(file);
        Set<String> missing = new TreeSet<>();
        for (SubCommand command : SUB_COMMANDS) {
            if (!text.contains("| `" + command.commandName() + "` | ")) {
                missing.add(command.commandName());
            }
        }
        if (only.matcher("every-row").matches()) {
            report("every-row", missing.isEmpty() ? null : "no row for " + missing, 0);
        }
    }

    /** Prints the closing line; true when all is well. */
    boolean close() {
        console.printf("%d of %d commands executed%n", executed.size(), registered().size());
        console.printf("%s: %d passed, %d failed%n", label, passed, failed);
        return failed == 0 && !executed.isEmpty();
    }
}
