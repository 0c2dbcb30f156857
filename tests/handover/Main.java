/** fill NUMBER LEDGER | dump FILE | settle LEDGER [late] | load RUN LEDGER | verify LEDGER */
public final class Main {
    private Main() {
    }

    /** Runs one command against the server of the environment. */
    public static void main(String[] words) {
        try {
            run(words);
            System.exit(0);
        } catch (Exception e) {
            e.printStackTrace();
            System.exit(1); // threads of the client library would keep the process
        }
    }

    private static void run(String[] words) throws Exception {
        Clients clients = new Clients();
        switch (words[0]) {
            case "fill" -> new Fill(clients, new Ledger(words[2]), Integer.parseInt(words[1])).all();
            case "dump" -> new Dump(clients, words[1]).all();
            case "settle" -> new Settle(clients, new Ledger(words[1])).all(words.length > 2);
            case "load" -> Load.send(clients, new Ledger(words[2]), words[1]);
            case "verify" -> Load.verify(clients, new Ledger(words[1]));
            default -> throw new IllegalArgumentException(words[0]);
        }
        clients.close();
    }
}
