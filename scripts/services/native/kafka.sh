# shellcheck shell=bash
# Apache Kafka, one KRaft node, from the jars on Maven Central.

readonly KAFKA_VERSION=4.3.1 LOG4J_VERSION=2.25.3
readonly KAFKA_HOME=$SERVICES_DIR/opt/kafka-$KAFKA_VERSION

kafka_installed() { [[ -d $KAFKA_HOME ]]; }

kafka_install() {
  local unpacked
  need_command java default-jre-headless
  need_command mvn maven
  unpacked=$(staging kafka)
  kafka_pom >"$unpacked/pom.xml"
  maven --file "$unpacked/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$unpacked/libs" ||
    fail "Maven Central did not give Kafka $KAFKA_VERSION; log: $INSTALL_LOG; $(way_out)"
  kafka_logging >"$unpacked/log4j2.properties"
  kafka_make_template "$unpacked"
  put_in_place "$unpacked" "$KAFKA_HOME"
}

# The jars bring no log back end of their own.
kafka_pom() {
  cat <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>hydratecache</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version>
      <exclusions><exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion></exclusions>
    </dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>$LOG4J_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>$LOG4J_VERSION</version></dependency>
  </dependencies>
</project>
END
}

kafka_logging() {
  cat <<'END'
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
END
}

# A formatted folder holds no port, so one serves all instances and saves each the start of a JVM.
kafka_make_template() { # kafka_make_template HOME
  kafka_properties "$1/template" 9092 9093 >"$1/template.properties"
  kafka_java "$1"
  "${COMMAND[@]}" kafka.tools.StorageTool format --cluster-id AAAAAAAAQACAAAAAAAAAAQ \
    --config "$1/template.properties" >>"$INSTALL_LOG" 2>&1 ||
    fail "formatting its storage failed; log: $INSTALL_LOG; $(way_out)"
}

kafka_java() { # kafka_java HOME: sets COMMAND up to the class to run
  COMMAND=("${JAVA_HOME:+$JAVA_HOME/bin/}java" -Xms256m -Xmx512m -XX:+UseSerialGC
    -Djava.net.preferIPv4Stack=true -Dlog4j2.configurationFile="$1/log4j2.properties" -cp "$1/libs/*")
}

kafka_ports() { echo 2; }
kafka_stop_signal() { echo TERM; }
kafka_ready() { grep -q 'Kafka Server started' "$PLACE/log" && answers; }

kafka_prepare() {
  local client controller
  read -r client controller <"$PLACE/ports"
  {
    kafka_properties "$PLACE/data" "$client" "$controller"
    # Of two lines for one setting the last one counts.
    if [[ -f $PLACE/options ]]; then
      sed "s/@CLIENT_PORT@/$client/g; s/@CONTROLLER_PORT@/$controller/g" "$PLACE/options"
    fi
  } >"$PLACE/kafka.properties"
  if [[ ! -f $PLACE/data/meta.properties ]]; then
    rm -rf "$PLACE/data"
    cp --recursive "$KAFKA_HOME/template" "$PLACE/data.new"
    mv "$PLACE/data.new" "$PLACE/data"
  fi
  kafka_java "$KAFKA_HOME"
  COMMAND+=(kafka.Kafka "$PLACE/kafka.properties")
}

# After kill -9 the controller takes the old broker for alive until its session ends (default: 9 s),
# and turns the new one away meanwhile.
kafka_properties() { # kafka_properties DATA CLIENT_PORT CONTROLLER_PORT
  cat <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$3
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://127.0.0.1:$2
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
num.partitions=1
auto.create.topics.enable=true
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=16777216
END
}
