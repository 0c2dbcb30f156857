import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;

/**
 * What was acknowledged and what is to come of it, one line each, kept over changes of the server:
 * sent TOPIC QUEUE OFFSET ID; due TOPIC KEY MS (once, not before); once TOPIC KEY; none TOPIC KEY
 * (never or much later); pop TOPIC KEY (again); acked TOPIC KEY (need not come again).
 */
final class Ledger {
    private final Path path;
    private final List<String> lines = new ArrayList<>();

    Ledger(String path) {
        this.path = Path.of(path);
    }

    synchronized void add(String kind, Object... words) {
        StringBuilder line = new StringBuilder(kind);
        for (Object word : words) {
            line.append('\t').append(word);
        }
        lines.add(line.toString());
    }

    synchronized void save() throws IOException {
        Files.write(path, lines, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        lines.clear();
    }

    List<String[]> all(String kind) throws IOException {
        List<String[]> found = new ArrayList<>();
        for (String line : Files.readAllLines(path)) {
            String[] words = line.split("\t");
            if (words[0].equals(kind)) {
                found.add(words);
            }
        }
        return found;
    }
}
